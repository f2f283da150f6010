use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use uuid::Uuid;
use whimbrel_model::DiskFormat;

use super::*;
use crate::test_support::TempDir;

/// A store that answers every request with `body`, and counts the requests.
async fn store(body: &'static [u8]) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(body).await;
        }
    });
    (url, requests)
}

const BODY: &[u8] = b"a very small disk";
const SHA256: &str = "c59ac48eaf58ff2e1ae3b64b4a2ee3da43e8a1a11ff53fd4a1ae1bc3d1b2f6f3";

fn image() -> ImageSpec {
    let size = i64::try_from(BODY.len()).unwrap();
    let sha256 = Sha256::digest(BODY).iter().map(|byte| format!("{byte:02x}")).collect();
    ImageSpec {
        id: ImageId(Uuid::from_u128(1)),
        format: DiskFormat::Raw,
        sha256,
        size,
        virtual_size: size,
    }
}

fn cache(dir: &TempDir, url: &str) -> BaseCache {
    BaseCache::new(Paths::new(dir.path().to_owned()), url).unwrap()
}

/// The names in the cache's directory.
fn names(dir: &TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(dir.path().join("_base")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn those_who_want_the_same_image_share_one_fetch() {
    let dir = TempDir::new();
    let (url, requests) = store(BODY).await;
    let cache = cache(&dir, &url);
    let image = image();
    let (one, two) = tokio::join!(cache.ensure(&image), cache.ensure(&image));
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(requests.load(Ordering::SeqCst), 1);
    assert_eq!(names(&dir), [image.id.to_string()]);
    assert!(cache.fetching.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_image_that_is_not_what_it_was_said_to_be_leaves_nothing_behind() {
    let dir = TempDir::new();
    let (url, _) = store(BODY).await;
    let cache = cache(&dir, &url);
    let wrong: [fn(&mut ImageSpec); 5] = [
        |image| SHA256.clone_into(&mut image.sha256),
        |image| image.size += 1,
        |image| image.size -= 1,
        |image| image.virtual_size += 1,
        |image| image.format = DiskFormat::Qcow2,
    ];
    for change in wrong {
        let mut image = image();
        change(&mut image);
        let error = cache.ensure(&image).await.unwrap_err();
        assert!(matches!(error, DriverError::InvalidImage(_)), "{error}");
        assert!(names(&dir).is_empty());
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_is_named_in_the_error() {
    let dir = TempDir::new();
    let error = cache(&dir, "http://127.0.0.1:1").ensure(&image()).await.unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    assert!(matches!(error, DriverError::Unavailable(_)), "it is worth asking again");
}

#[test]
fn a_root_disk_is_as_large_as_the_flavor_says_and_never_smaller_than_its_image() {
    let image = ImageSpec { virtual_size: 2 * GIB, ..image() };
    assert_eq!(root_disk_size(&image, 3).unwrap(), 3 * GIB);
    assert_eq!(root_disk_size(&image, 0).unwrap(), 2 * GIB);
    assert!(matches!(root_disk_size(&image, 1), Err(DriverError::InvalidImage(_))));
}
