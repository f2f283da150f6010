DROP TABLE volume;
ALTER TABLE instance
    DROP CONSTRAINT instance_task_state_check,
    ADD CONSTRAINT instance_task_state_check CHECK (task_state IN ('scheduling', 'spawning', 'powering-on',
        'powering-off', 'rebooting', 'rebooting_hard', 'migrating', 'resize_prep', 'resize_migrating', 'resize_finish',
        'resize_confirming', 'resize_reverting', 'rebuilding', 'rebuild_spawning', 'deleting'));
