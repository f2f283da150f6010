-- Fails, and changes nothing, while there are rows that the older schema does not know.
DROP INDEX migration_waiting;
DROP INDEX migration_one_active;
ALTER TABLE migration
    DROP CONSTRAINT migration_flavors,
    DROP COLUMN old_flavor,
    DROP COLUMN new_flavor,
    DROP COLUMN was_running,
    DROP CONSTRAINT migration_status_check,
    ADD CONSTRAINT migration_status_check CHECK (status IN ('accepted', 'preparing', 'running', 'running (post-copy)',
        'completed', 'cancelled', 'failed', 'error')),
    DROP CONSTRAINT migration_migration_type_check,
    ADD CONSTRAINT migration_migration_type_check CHECK (migration_type IN ('live-migration'));
CREATE UNIQUE INDEX migration_one_active ON migration (instance_id)
    WHERE status IN ('accepted', 'preparing', 'running', 'running (post-copy)');
ALTER TABLE instance
    DROP CONSTRAINT instance_task_state_check,
    ADD CONSTRAINT instance_task_state_check CHECK (task_state IN ('scheduling', 'spawning', 'powering-on',
        'powering-off', 'rebooting', 'rebooting_hard', 'migrating', 'deleting')),
    DROP CONSTRAINT instance_vm_state_check,
    ADD CONSTRAINT instance_vm_state_check CHECK (vm_state IN ('building', 'active', 'paused', 'stopped', 'error',
        'deleted'));
