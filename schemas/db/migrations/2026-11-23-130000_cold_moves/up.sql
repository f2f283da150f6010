-- Moves of guests that are shut off: resize, cold migration, evacuation.

ALTER TABLE instance
    DROP CONSTRAINT instance_vm_state_check,
    ADD CONSTRAINT instance_vm_state_check CHECK (vm_state IN ('building', 'active', 'paused', 'stopped', 'resized',
        'error', 'deleted')),
    DROP CONSTRAINT instance_task_state_check,
    ADD CONSTRAINT instance_task_state_check CHECK (task_state IN ('scheduling', 'spawning', 'powering-on',
        'powering-off', 'rebooting', 'rebooting_hard', 'migrating', 'resize_prep', 'resize_migrating', 'resize_finish',
        'resize_confirming', 'resize_reverting', 'rebuilding', 'rebuild_spawning', 'deleting'));

ALTER TABLE migration
    DROP CONSTRAINT migration_migration_type_check,
    ADD CONSTRAINT migration_migration_type_check CHECK (migration_type IN ('live-migration', 'migration', 'resize',
        'evacuation')),
    DROP CONSTRAINT migration_status_check,
    ADD CONSTRAINT migration_status_check CHECK (status IN ('accepted', 'preparing', 'running', 'running (post-copy)',
        'completed', 'pre-migrating', 'migrating', 'post-migrating', 'finished', 'confirming', 'confirmed',
        'reverting', 'reverted', 'done', 'cancelled', 'failed', 'error')),
    -- What the way back needs: the flavors on both sides, as a server shows them, and whether the guest ran.
    ADD COLUMN old_flavor jsonb,
    ADD COLUMN new_flavor jsonb,
    ADD COLUMN was_running boolean,
    ADD CONSTRAINT migration_flavors CHECK (migration_type NOT IN ('migration', 'resize')
        OR (old_flavor IS NOT NULL AND new_flavor IS NOT NULL AND was_running IS NOT NULL));

-- One that waits for a decision is active, too. An evacuation that is done but for its lost host is not.
DROP INDEX migration_one_active;
CREATE UNIQUE INDEX migration_one_active ON migration (instance_id)
    WHERE status IN ('accepted', 'preparing', 'running', 'running (post-copy)', 'pre-migrating', 'migrating',
                     'post-migrating', 'finished', 'confirming', 'reverting');
-- Moves that wait for a decision, for the automatic confirmation, and evacuations that wait for their lost hosts.
CREATE INDEX migration_waiting ON migration (status, updated_at) WHERE status IN ('finished', 'done');
