//! Each version's steps, frozen: rows of it may be on their way.

use std::collections::BTreeSet;

use expect_test::expect;
use whimbrel_saga::{Registry, StepKind, StepShape};

/// Steps that leave nothing behind at whoever they ask.
const WITHOUT_EFFECT: [&str; 1] = ["check_can_live_migrate_source"];
/// Steps whose effect is in our own rows and is undone by a change of them.
const UNDONE_IN_ROWS: [&str; 1] = ["select_destinations"];

fn all() -> Vec<(String, i16, Vec<StepShape>)> {
    let registry = crate::registry();
    let all =
        registry.iter().map(|(name, version, known)| (name.to_owned(), version, known.shape()));
    all.collect()
}

#[test]
fn definitions_are_frozen() {
    let mut text = String::new();
    for (name, version, steps) in all() {
        text += &format!("{name} {version}\n");
        for StepShape { name, kind, method, undo } in steps {
            text += &format!("    {name}: {kind:?} {method}");
            text += &undo.map(|undo| format!(", undone by {undo}")).unwrap_or_default();
            text += "\n";
        }
    }
    expect![[r#"
        attach-volume 1
            attach-volume: Compensatable attach_volume, undone by detach_volume
        boot 1
            select-destination: Compensatable select_destinations
            build-and-run: Compensatable build_and_run_instance, undone by terminate_instance
        confirm-resize 1
            confirm-resize: Retriable confirm_resize
        delete 1
            terminate: Retriable terminate_instance
            terminate-other: Retriable terminate_instance
        detach-volume 1
            detach-volume: Pivot detach_volume, undone by fence
        evacuate 1
            select-destination: Compensatable select_destinations
            rebuild-instance: Compensatable rebuild_instance, undone by revert_resize
            clear-source: Retriable post_live_migration
        live-migrate 1
            select-destination: Compensatable select_destinations
            check-destination: Compensatable check_can_live_migrate_destination, undone by clean_up_live_migration_check
            check-source: Compensatable check_can_live_migrate_source
            prepare-destination: Compensatable pre_live_migration, undone by rollback_live_migration_at_destination
            move-guest: Pivot live_migration, undone by live_migration_abort
            finish-at-destination: Retriable post_live_migration_at_destination
            clean-up-source: Retriable post_live_migration
        reboot 1
            reboot: Pivot reboot_instance, undone by fence
        resize 1
            select-destination: Compensatable select_destinations
            prep-resize: Compensatable prep_resize, undone by revert_resize
            resize-instance: Compensatable resize_instance, undone by finish_revert_resize
            finish-resize: Pivot finish_resize, undone by fence_resize
        revert-resize 1
            revert-resize: Pivot revert_resize, undone by fence
            finish-revert-resize: Retriable finish_revert_resize
            clean-up-destination: Retriable revert_resize
        start 1
            start: Pivot start_instance, undone by fence
        stop 1
            stop: Pivot stop_instance, undone by fence
    "#]].assert_eq(&text);
}

#[test]
fn what_can_be_undone_comes_before_the_pivot_and_what_must_be_done_after_it() {
    for (name, _, steps) in all() {
        let order = |kind| match kind {
            StepKind::Compensatable => 0,
            StepKind::Pivot => 1,
            StepKind::Retriable => 2,
        };
        let kinds: Vec<_> = steps.iter().map(|step| order(step.kind)).collect();
        assert!(kinds.is_sorted(), "{name}: {kinds:?}");
        assert!(kinds.iter().filter(|kind| **kind == 1).count() <= 1, "{name}");
        assert!(!steps.is_empty(), "{name}");
    }
}

#[test]
fn no_two_steps_of_a_saga_share_a_name() {
    for (name, _, steps) in all() {
        let names: BTreeSet<_> = steps.iter().map(|step| step.name).collect();
        assert_eq!(names.len(), steps.len(), "{name}");
    }
}

#[test]
fn whatever_has_an_effect_before_the_point_of_no_return_has_an_undo() {
    for (name, _, steps) in all() {
        for step in steps {
            let harmless =
                WITHOUT_EFFECT.contains(&step.method) || UNDONE_IN_ROWS.contains(&step.method);
            match step.kind {
                StepKind::Compensatable => {
                    assert_eq!(step.undo.is_none(), harmless, "{name} {step:?}");
                }
                StepKind::Pivot => assert!(step.undo.is_some(), "{name}: a pivot has a fence"),
                StepKind::Retriable => assert_eq!(step.undo, None, "{name} {step:?}"),
            }
        }
    }
}

#[test]
fn a_definition_is_found_by_name_and_version_only() {
    let registry: Registry = crate::registry();
    assert!(registry.get("boot", 1).is_some());
    assert!(registry.get("boot", 2).is_none());
    assert!(registry.get("Boot", 1).is_none());
}
