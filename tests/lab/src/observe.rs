//! What can be seen of a guest's disks from outside, without asking Whimbrel.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// The files below a directory of guests' disks, relative to it, sorted. Base images, which hosts keep for the
/// next guest, are left out.
pub(crate) fn instance_files(instances: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut todo = vec![instances.to_owned()];
    while let Some(dir) = todo.pop() {
        let entries = match std::fs::read_dir(&dir) {
            // A directory may go while it is looked at.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.with_context(|| format!("reading {}", dir.display()))?,
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir && path != instances.join("_base") {
                todo.push(path);
            } else if !is_dir && let Ok(relative) = path.strip_prefix(instances) {
                found.push(relative.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_guests_are_found_and_base_images_left_out() {
        let dir = std::env::temp_dir().join(format!("whimbrel-observe-{}", std::process::id()));
        for file in ["_base/image", "guest/disk", "guest/console.log", ".probe.x"] {
            let path = dir.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let found = instance_files(&dir);
        std::fs::remove_dir_all(&dir).unwrap();
        let expected: Vec<PathBuf> =
            [".probe.x", "guest/console.log", "guest/disk"].map(PathBuf::from).to_vec();
        assert_eq!(found.unwrap(), expected);
    }
}
