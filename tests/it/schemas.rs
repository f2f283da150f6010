//! Shapes at a boundary that outlives one deploy are checked in, and equal to the types.
//!
//! `UPDATE_EXPECT=1 cargo test -p whimbrel-tests` writes them anew; the difference is the review.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use schemars::{JsonSchema, schema_for};
use whimbrel_messages::{Command, Reply, Rpc, SagaHint, compute, report, scheduler};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the repository").to_owned()
}

fn check<T: JsonSchema>(written: &mut BTreeSet<String>, name: &str) {
    let schema = serde_json::to_string_pretty(&schema_for!(T)).expect("a schema is JSON") + "\n";
    let path = repository().join("schemas/amqp").join(name);
    std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder");
    expect_file![path].assert_eq(&schema);
    written.insert(name.to_owned());
}

fn method<R: Rpc>(written: &mut BTreeSet<String>, receiver: &str) {
    let (major, _) = R::VERSION;
    check::<R>(written, &format!("{receiver}/{}-{major}.json", R::METHOD));
    check::<R::Reply>(written, &format!("{receiver}/{}-{major}.reply.json", R::METHOD));
}

#[test]
fn message_schemas_match_the_types() {
    let mut written = BTreeSet::new();
    let all = &mut written;
    check::<Command>(all, "command.json");
    check::<Reply>(all, "reply.json");
    check::<SagaHint>(all, "conductor/saga_hint.json");
    check::<report::HostReport>(all, "conductor/host_report.json");
    check::<report::MigrationProgress>(all, "conductor/migration_progress.json");
    method::<scheduler::SelectDestinations>(all, "scheduler");
    method::<compute::BuildAndRunInstance>(all, "compute");
    method::<compute::TerminateInstance>(all, "compute");
    method::<compute::StartInstance>(all, "compute");
    method::<compute::StopInstance>(all, "compute");
    method::<compute::RebootInstance>(all, "compute");
    method::<compute::Fence>(all, "compute");
    method::<compute::CheckCanLiveMigrateDestination>(all, "compute");
    method::<compute::CleanUpLiveMigrationCheck>(all, "compute");
    method::<compute::CheckCanLiveMigrateSource>(all, "compute");
    method::<compute::PreLiveMigration>(all, "compute");
    method::<compute::RollbackLiveMigrationAtDestination>(all, "compute");
    method::<compute::LiveMigration>(all, "compute");
    method::<compute::LiveMigrationAbort>(all, "compute");
    method::<compute::LiveMigrationForceComplete>(all, "compute");
    method::<compute::PostLiveMigrationAtDestination>(all, "compute");
    method::<compute::PostLiveMigration>(all, "compute");
    method::<compute::PrepResize>(all, "compute");
    method::<compute::ResizeInstance>(all, "compute");
    method::<compute::FinishResize>(all, "compute");
    method::<compute::FenceResize>(all, "compute");
    method::<compute::ConfirmResize>(all, "compute");
    method::<compute::RevertResize>(all, "compute");
    method::<compute::FinishRevertResize>(all, "compute");
    method::<compute::RebuildInstance>(all, "compute");
    method::<compute::AttachVolume>(all, "compute");
    method::<compute::DetachVolume>(all, "compute");
    assert_eq!(files(&repository().join("schemas/amqp")), written, "a schema without a type");
}

#[test]
fn every_method_that_a_saga_asks_for_has_a_schema() {
    let files = files(&repository().join("schemas/amqp"));
    for (name, _, definition) in whimbrel_sagas::registry().iter() {
        for step in definition.shape() {
            for method in [Some(step.method), step.undo].into_iter().flatten() {
                let known = ["compute", "scheduler"]
                    .iter()
                    .any(|receiver| files.contains(&format!("{receiver}/{method}-1.json")));
                assert!(known, "{name}: {method}");
            }
        }
    }
}

fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("the folder of schemas") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|inner| format!("{name}/{inner}")));
        } else {
            found.insert(name);
        }
    }
    found
}
