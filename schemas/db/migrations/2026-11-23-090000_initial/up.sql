-- Every guard that must hold whoever writes is here: CHECKs, foreign keys and partial unique indexes.
-- Statuses are text with a CHECK; tests keep the CHECKs equal to the enums in common/model.

CREATE TABLE flavor (
    id          text PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 255),
    name        text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 255),
    vcpus       integer NOT NULL CHECK (vcpus > 0),
    memory_mib  bigint NOT NULL CHECK (memory_mib > 0),
    disk_gib    bigint NOT NULL CHECK (disk_gib >= 0),
    is_public   boolean NOT NULL DEFAULT true,
    description text,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE image (
    id           uuid PRIMARY KEY,
    name         text NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    format       text NOT NULL CHECK (format IN ('raw', 'qcow2')),
    status       text NOT NULL CHECK (status IN ('queued', 'active')),
    sha256       text NOT NULL DEFAULT '' CHECK (sha256 ~ '^([0-9a-f]{64})?$'),
    size         bigint NOT NULL DEFAULT 0 CHECK (size >= 0),
    virtual_size bigint NOT NULL DEFAULT 0 CHECK (virtual_size >= 0),
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    CHECK (status = 'queued' OR (sha256 <> '' AND virtual_size > 0))
);

-- A provider network: a bridge that every host has, and a range of addresses.
CREATE TABLE network (
    id         uuid PRIMARY KEY,
    name       text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 255),
    bridge     text NOT NULL CHECK (bridge ~ '^[A-Za-z0-9_.-]{1,15}$'),
    cidr       text NOT NULL,
    pool_start text NOT NULL,
    pool_end   text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE host (
    name               text PRIMARY KEY,
    service_id         uuid NOT NULL UNIQUE,
    -- The integer that clients below microversion 2.53 know services and hypervisors by.
    number             bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    status             text NOT NULL DEFAULT 'enabled' CHECK (status IN ('enabled', 'disabled')),
    disabled_reason    text,
    forced_down        boolean NOT NULL DEFAULT false,
    vcpus              integer NOT NULL DEFAULT 0 CHECK (vcpus >= 0),
    memory_mib         bigint NOT NULL DEFAULT 0 CHECK (memory_mib >= 0),
    disk_gib           bigint NOT NULL DEFAULT 0 CHECK (disk_gib >= 0),
    -- Kept by a trigger on allocation, so that no writer can forget it (I4).
    vcpus_used         integer NOT NULL DEFAULT 0 CHECK (vcpus_used >= 0),
    memory_mib_used    bigint NOT NULL DEFAULT 0 CHECK (memory_mib_used >= 0),
    disk_gib_used      bigint NOT NULL DEFAULT 0 CHECK (disk_gib_used >= 0),
    hypervisor_type    text NOT NULL DEFAULT '',
    hypervisor_version bigint NOT NULL DEFAULT 0,
    inventory          jsonb NOT NULL DEFAULT '{}',
    guests             jsonb NOT NULL DEFAULT '[]',
    agent_boot_id      uuid,
    agent_started_at   timestamptz,
    report_sequence    bigint NOT NULL DEFAULT 0,
    report_interval_ms bigint NOT NULL DEFAULT 0,
    reported_at        timestamptz,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);

-- The other services: conductors, schedulers, APIs. Compute services are rows of host.
CREATE TABLE service (
    id          uuid PRIMARY KEY,
    binary_name text NOT NULL CHECK (binary_name IN ('whimbrel-api', 'whimbrel-conductor', 'whimbrel-scheduler')),
    host        text NOT NULL,
    number      bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    reported_at timestamptz NOT NULL DEFAULT now(),
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (binary_name, host)
) WITH (fillfactor = 70);

CREATE TABLE instance (
    id               uuid PRIMARY KEY,
    name             text NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    description      text,
    project_id       text NOT NULL,
    user_id          text NOT NULL,
    vm_state         text NOT NULL CHECK (vm_state IN ('building', 'active', 'paused', 'stopped', 'error', 'deleted')),
    task_state       text CHECK (task_state IN ('scheduling', 'spawning', 'powering-on', 'powering-off', 'rebooting',
                                                'rebooting_hard', 'migrating', 'deleting')),
    power_state      text NOT NULL DEFAULT 'nostate'
                     CHECK (power_state IN ('nostate', 'running', 'paused', 'shutdown', 'crashed', 'suspended')),
    -- The host that has the right to run the guest, and the token that says so.
    host             text REFERENCES host (name),
    owner_epoch      bigint NOT NULL DEFAULT 0 CHECK (owner_epoch >= 0),
    generation       bigint NOT NULL DEFAULT 1,
    delete_requested boolean NOT NULL DEFAULT false,
    flavor_id        text NOT NULL,
    flavor           jsonb NOT NULL,
    vcpus            integer NOT NULL CHECK (vcpus > 0),
    memory_mib       bigint NOT NULL CHECK (memory_mib > 0),
    disk_gib         bigint NOT NULL CHECK (disk_gib >= 0),
    image_id         uuid NOT NULL REFERENCES image (id),
    metadata         jsonb NOT NULL DEFAULT '{}',
    key_name         text,
    reservation_id   text NOT NULL,
    fault_code       text,
    fault_message    text,
    fault_at         timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    launched_at      timestamptz,
    deleted_at       timestamptz,
    CHECK ((deleted_at IS NULL) = (vm_state <> 'deleted')),
    CHECK (vm_state <> 'deleted' OR (task_state IS NULL AND host IS NULL))
) WITH (fillfactor = 70);
-- Lists: newest first, by marker.
CREATE INDEX instance_list ON instance (created_at DESC, id DESC) WHERE deleted_at IS NULL;
CREATE INDEX instance_project_list ON instance (project_id, created_at DESC, id DESC) WHERE deleted_at IS NULL;
CREATE INDEX instance_host ON instance (host) WHERE host IS NOT NULL;

CREATE TABLE port (
    id          uuid PRIMARY KEY,
    network_id  uuid NOT NULL REFERENCES network (id),
    instance_id uuid NOT NULL REFERENCES instance (id),
    position    integer NOT NULL,
    mac         text NOT NULL UNIQUE CHECK (mac ~ '^([0-9a-f]{2}:){5}[0-9a-f]{2}$'),
    address     text NOT NULL,
    UNIQUE (network_id, address),
    UNIQUE (instance_id, position)
);

CREATE TABLE migration (
    id               uuid PRIMARY KEY,
    number           bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    instance_id      uuid NOT NULL REFERENCES instance (id),
    migration_type   text NOT NULL CHECK (migration_type IN ('live-migration')),
    status           text NOT NULL CHECK (status IN ('accepted', 'preparing', 'running', 'running (post-copy)',
                                                     'completed', 'cancelled', 'failed', 'error')),
    source_compute   text NOT NULL,
    dest_compute     text,
    dest_host        text,
    project_id       text NOT NULL,
    user_id          text NOT NULL,
    generation       bigint NOT NULL DEFAULT 1,
    memory_total     bigint, memory_processed bigint, memory_remaining bigint,
    disk_total       bigint, disk_processed bigint, disk_remaining bigint,
    total_ms         bigint,
    downtime_ms      bigint,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX migration_one_active ON migration (instance_id)
    WHERE status IN ('accepted', 'preparing', 'running', 'running (post-copy)');
CREATE INDEX migration_instance ON migration (instance_id);
CREATE INDEX migration_list ON migration (created_at DESC, number DESC);

CREATE TABLE saga (
    id               uuid PRIMARY KEY,
    name             text NOT NULL,
    version          smallint NOT NULL,
    instance_id      uuid NOT NULL REFERENCES instance (id),
    migration_id     uuid REFERENCES migration (id),
    request_id       text NOT NULL,
    project_id       text NOT NULL,
    user_id          text NOT NULL,
    phase            text NOT NULL CHECK (phase IN ('new', 'running', 'unwinding', 'completed', 'unwound', 'stuck')),
    step             text NOT NULL DEFAULT '',
    dir              text NOT NULL DEFAULT 'do' CHECK (dir IN ('do', 'undo')),
    round            integer NOT NULL DEFAULT 0,
    attempt          integer NOT NULL DEFAULT 0,
    tries            integer NOT NULL DEFAULT 0,
    wake_at          timestamptz,
    cancel_requested boolean NOT NULL DEFAULT false,
    cancelled        boolean NOT NULL DEFAULT false,
    deferred         boolean NOT NULL DEFAULT false,
    failures         integer NOT NULL DEFAULT 0,
    state            jsonb NOT NULL,
    fault            jsonb,
    trace_context    text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    -- I2 as a constraint: whatever is active has a time at which somebody looks at it again.
    CHECK ((wake_at IS NULL) = (phase IN ('completed', 'unwound', 'stuck')))
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX saga_one_active ON saga (instance_id) WHERE phase IN ('new', 'running', 'unwinding');
-- Not on wake_at: it changes with every step, and an index on it would end HOT updates.
CREATE INDEX saga_active ON saga (id) WHERE phase IN ('new', 'running', 'unwinding');
CREATE INDEX saga_instance ON saga (instance_id, created_at);

CREATE TABLE saga_history (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    saga_id uuid NOT NULL,
    at      timestamptz NOT NULL DEFAULT now(),
    entry   jsonb NOT NULL
);
CREATE INDEX saga_history_saga ON saga_history (saga_id, id);

-- Messages that were decided on in a transaction. The id is the message's own, a UUIDv7.
CREATE TABLE outbox (
    id          uuid PRIMARY KEY,
    exchange    text NOT NULL,
    routing_key text NOT NULL,
    mandatory   boolean NOT NULL,
    body        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    next_try_at timestamptz NOT NULL DEFAULT now() + interval '2 seconds',
    tries       integer NOT NULL DEFAULT 0
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- What each consumer holds on each host. The consumer is an instance or, during a move, its migration.
CREATE TABLE allocation (
    consumer    uuid NOT NULL,
    host        text NOT NULL REFERENCES host (name),
    instance_id uuid NOT NULL REFERENCES instance (id),
    vcpus       integer NOT NULL CHECK (vcpus >= 0),
    memory_mib  bigint NOT NULL CHECK (memory_mib >= 0),
    disk_gib    bigint NOT NULL CHECK (disk_gib >= 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer)
);
CREATE INDEX allocation_host ON allocation (host);
CREATE INDEX allocation_instance ON allocation (instance_id);

CREATE FUNCTION allocation_count() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- A row that only changes hands leaves its host's sum as it is.
    IF TG_OP = 'UPDATE' AND (OLD.host, OLD.vcpus, OLD.memory_mib, OLD.disk_gib)
                          = (NEW.host, NEW.vcpus, NEW.memory_mib, NEW.disk_gib) THEN
        RETURN NULL;
    END IF;
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        UPDATE host SET vcpus_used = vcpus_used - OLD.vcpus, memory_mib_used = memory_mib_used - OLD.memory_mib,
            disk_gib_used = disk_gib_used - OLD.disk_gib WHERE name = OLD.host;
    END IF;
    IF TG_OP IN ('UPDATE', 'INSERT') THEN
        UPDATE host SET vcpus_used = vcpus_used + NEW.vcpus, memory_mib_used = memory_mib_used + NEW.memory_mib,
            disk_gib_used = disk_gib_used + NEW.disk_gib WHERE name = NEW.host;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER allocation_counted AFTER INSERT OR UPDATE OR DELETE ON allocation
    FOR EACH ROW EXECUTE FUNCTION allocation_count();

-- Work for a host that was down when it came up. Sent when the host reports again; gone when answered.
CREATE TABLE host_obligation (
    saga_id     uuid NOT NULL,
    round       integer NOT NULL,
    step        text NOT NULL,
    dir         text NOT NULL CHECK (dir IN ('do', 'undo')),
    host        text NOT NULL REFERENCES host (name),
    instance_id uuid NOT NULL,
    command     jsonb NOT NULL,
    tries       integer NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL DEFAULT now(),
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (saga_id, round, step, dir)
);
CREATE INDEX host_obligation_host ON host_obligation (host);

-- Messages that nobody could read. Kept until an operator has looked.
CREATE TABLE dead_letter (
    id          uuid PRIMARY KEY,
    queue       text NOT NULL,
    reason      text NOT NULL,
    body        text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now()
);
