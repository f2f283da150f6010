-- Volumes: disks on storage of the network, which guests are given and which stay when guests go.

CREATE TABLE volume (
    id            uuid PRIMARY KEY,
    project_id    text NOT NULL,
    name          text NOT NULL CHECK (length(name) <= 255),
    size_gib      bigint NOT NULL CHECK (size_gib > 0),
    -- Where its bytes are. Written to by one guest at a time, so it is there once.
    source        jsonb NOT NULL UNIQUE,
    status        text NOT NULL CHECK (status IN ('available', 'attaching', 'in-use', 'detaching')),
    instance_id   uuid REFERENCES instance (id),
    -- The name that the guest knows it by.
    device        text CHECK (device ~ '^vd[b-z]$'),
    attachment_id uuid,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (instance_id, device),
    CHECK ((status = 'available') = (instance_id IS NULL)),
    CHECK ((instance_id IS NULL) = (device IS NULL) AND (instance_id IS NULL) = (attachment_id IS NULL))
);
CREATE INDEX volume_project_list ON volume (project_id, id);

ALTER TABLE instance
    DROP CONSTRAINT instance_task_state_check,
    ADD CONSTRAINT instance_task_state_check CHECK (task_state IN ('scheduling', 'spawning', 'powering-on',
        'powering-off', 'rebooting', 'rebooting_hard', 'migrating', 'resize_prep', 'resize_migrating', 'resize_finish',
        'resize_confirming', 'resize_reverting', 'rebuilding', 'rebuild_spawning', 'attaching_volume',
        'detaching_volume', 'deleting'));
