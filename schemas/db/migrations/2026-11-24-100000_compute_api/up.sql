-- What the Compute API keeps besides servers and moves: key pairs, server groups, aggregates, quotas, access to
-- flavors; and what users say of servers and images.

ALTER TABLE instance
    -- Who locked it: its owner, or an administrator, whom the owner can't overrule.
    ADD COLUMN locked_by text CHECK (locked_by IN ('owner', 'admin')),
    ADD COLUMN locked_reason text,
    -- The zone that the user asked for; it is moved only inside of it.
    ADD COLUMN availability_zone text,
    ADD COLUMN hostname text,
    ADD COLUMN tags text[] NOT NULL DEFAULT '{}';

ALTER TABLE flavor ADD COLUMN extra_specs jsonb NOT NULL DEFAULT '{}';
CREATE TABLE flavor_access (
    flavor_id  text NOT NULL REFERENCES flavor (id) ON DELETE CASCADE,
    project_id text NOT NULL,
    PRIMARY KEY (flavor_id, project_id)
);

ALTER TABLE image
    ADD COLUMN owner text NOT NULL DEFAULT 'default',
    ADD COLUMN visibility text NOT NULL DEFAULT 'public'
        CHECK (visibility IN ('public', 'private', 'shared', 'community')),
    ADD COLUMN protected boolean NOT NULL DEFAULT false,
    ADD COLUMN min_disk bigint NOT NULL DEFAULT 0 CHECK (min_disk >= 0),
    ADD COLUMN min_ram bigint NOT NULL DEFAULT 0 CHECK (min_ram >= 0),
    ADD COLUMN tags text[] NOT NULL DEFAULT '{}',
    -- Names and values of the user's.
    ADD COLUMN properties jsonb NOT NULL DEFAULT '{}';

CREATE TABLE keypair (
    user_id     text NOT NULL,
    name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    number      bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    kind        text NOT NULL CHECK (kind IN ('ssh', 'x509')),
    public_key  text NOT NULL,
    fingerprint text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, name)
);

CREATE TABLE server_group (
    id                  uuid PRIMARY KEY,
    project_id          text NOT NULL,
    user_id             text NOT NULL,
    name                text NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    policy              text NOT NULL
                        CHECK (policy IN ('affinity', 'anti-affinity', 'soft-affinity', 'soft-anti-affinity')),
    max_server_per_host integer CHECK (max_server_per_host > 0),
    created_at          timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE server_group_member (
    instance_id uuid PRIMARY KEY REFERENCES instance (id) ON DELETE CASCADE,
    group_id    uuid NOT NULL REFERENCES server_group (id) ON DELETE CASCADE
);
CREATE INDEX server_group_members ON server_group_member (group_id);

CREATE TABLE aggregate (
    number            bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    id                uuid NOT NULL UNIQUE,
    name              text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 255),
    availability_zone text,
    metadata          jsonb NOT NULL DEFAULT '{}',
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE aggregate_host (
    aggregate bigint NOT NULL REFERENCES aggregate (number),
    host      text NOT NULL REFERENCES host (name) ON DELETE CASCADE,
    PRIMARY KEY (aggregate, host)
);

-- Limits that differ from the defaults. -1 is no limit.
CREATE TABLE quota (
    project_id text NOT NULL,
    resource   text NOT NULL CHECK (resource IN ('instances', 'cores', 'ram', 'key_pairs', 'metadata_items',
                                                 'server_groups', 'server_group_members')),
    hard_limit bigint NOT NULL CHECK (hard_limit >= -1),
    PRIMARY KEY (project_id, resource)
);
