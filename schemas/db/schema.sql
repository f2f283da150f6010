SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE FUNCTION public.allocation_count() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
    changed record;
BEGIN
    FOR changed IN EXECUTE
        'SELECT host, sum(sign * vcpus)::integer AS vcpus, sum(sign * memory_mib)::bigint AS memory_mib, '
        'sum(sign * disk_gib)::bigint AS disk_gib FROM ('
        || CASE TG_OP WHEN 'INSERT' THEN 'SELECT 1 AS sign, * FROM added'
                      WHEN 'DELETE' THEN 'SELECT -1 AS sign, * FROM removed'
                      ELSE 'SELECT 1 AS sign, * FROM added UNION ALL SELECT -1, * FROM removed' END
        -- A row that only changes hands leaves its host's sum as it is.
        || ') AS rows GROUP BY host HAVING sum(sign * vcpus) <> 0 OR sum(sign * memory_mib) <> 0 '
        'OR sum(sign * disk_gib) <> 0 ORDER BY host'
    LOOP
        UPDATE host SET vcpus_used = vcpus_used + changed.vcpus, memory_mib_used = memory_mib_used + changed.memory_mib,
            disk_gib_used = disk_gib_used + changed.disk_gib WHERE name = changed.host;
    END LOOP;
    RETURN NULL;
END $$;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.__diesel_schema_migrations (
    version character varying(50) NOT NULL,
    run_on timestamp without time zone DEFAULT CURRENT_TIMESTAMP NOT NULL
);
CREATE TABLE public.aggregate (
    number bigint NOT NULL,
    id uuid NOT NULL,
    name text NOT NULL,
    availability_zone text,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT aggregate_name_check CHECK (((length(name) >= 1) AND (length(name) <= 255)))
);
CREATE TABLE public.aggregate_host (
    aggregate bigint NOT NULL,
    host text NOT NULL
);
ALTER TABLE public.aggregate ALTER COLUMN number ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.aggregate_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.allocation (
    consumer uuid NOT NULL,
    host text NOT NULL,
    instance_id uuid NOT NULL,
    vcpus integer NOT NULL,
    memory_mib bigint NOT NULL,
    disk_gib bigint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT allocation_disk_gib_check CHECK ((disk_gib >= 0)),
    CONSTRAINT allocation_memory_mib_check CHECK ((memory_mib >= 0)),
    CONSTRAINT allocation_vcpus_check CHECK ((vcpus >= 0))
);
CREATE TABLE public.config_drive (
    instance_id uuid NOT NULL,
    content jsonb NOT NULL
);
CREATE TABLE public.dead_letter (
    id uuid NOT NULL,
    queue text NOT NULL,
    reason text NOT NULL,
    body text NOT NULL,
    received_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.flavor (
    id text NOT NULL,
    name text NOT NULL,
    vcpus integer NOT NULL,
    memory_mib bigint NOT NULL,
    disk_gib bigint NOT NULL,
    is_public boolean DEFAULT true NOT NULL,
    description text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    extra_specs jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT flavor_disk_gib_check CHECK ((disk_gib >= 0)),
    CONSTRAINT flavor_id_check CHECK (((length(id) >= 1) AND (length(id) <= 255))),
    CONSTRAINT flavor_memory_mib_check CHECK ((memory_mib > 0)),
    CONSTRAINT flavor_name_check CHECK (((length(name) >= 1) AND (length(name) <= 255))),
    CONSTRAINT flavor_vcpus_check CHECK ((vcpus > 0))
);
CREATE TABLE public.flavor_access (
    flavor_id text NOT NULL,
    project_id text NOT NULL
);
CREATE TABLE public.host (
    name text NOT NULL,
    service_id uuid NOT NULL,
    number bigint NOT NULL,
    status text DEFAULT 'enabled'::text NOT NULL,
    disabled_reason text,
    forced_down boolean DEFAULT false NOT NULL,
    vcpus integer DEFAULT 0 NOT NULL,
    memory_mib bigint DEFAULT 0 NOT NULL,
    disk_gib bigint DEFAULT 0 NOT NULL,
    vcpus_used integer DEFAULT 0 NOT NULL,
    memory_mib_used bigint DEFAULT 0 NOT NULL,
    disk_gib_used bigint DEFAULT 0 NOT NULL,
    hypervisor_type text DEFAULT ''::text NOT NULL,
    hypervisor_version bigint DEFAULT 0 NOT NULL,
    inventory jsonb DEFAULT '{}'::jsonb NOT NULL,
    guests jsonb DEFAULT '[]'::jsonb NOT NULL,
    agent_boot_id uuid,
    agent_started_at timestamp with time zone,
    report_sequence bigint DEFAULT 0 NOT NULL,
    report_interval_ms bigint DEFAULT 0 NOT NULL,
    reported_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT host_disk_gib_check CHECK ((disk_gib >= 0)),
    CONSTRAINT host_disk_gib_used_check CHECK ((disk_gib_used >= 0)),
    CONSTRAINT host_memory_mib_check CHECK ((memory_mib >= 0)),
    CONSTRAINT host_memory_mib_used_check CHECK ((memory_mib_used >= 0)),
    CONSTRAINT host_status_check CHECK ((status = ANY (ARRAY['enabled'::text, 'disabled'::text]))),
    CONSTRAINT host_vcpus_check CHECK ((vcpus >= 0)),
    CONSTRAINT host_vcpus_used_check CHECK ((vcpus_used >= 0))
)
WITH (fillfactor='70');
ALTER TABLE public.host ALTER COLUMN number ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.host_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.host_obligation (
    saga_id uuid NOT NULL,
    round integer NOT NULL,
    step text NOT NULL,
    dir text NOT NULL,
    host text NOT NULL,
    instance_id uuid NOT NULL,
    command jsonb NOT NULL,
    tries integer DEFAULT 0 NOT NULL,
    next_try_at timestamp with time zone DEFAULT now() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT host_obligation_dir_check CHECK ((dir = ANY (ARRAY['do'::text, 'undo'::text])))
);
CREATE TABLE public.image (
    id uuid NOT NULL,
    name text NOT NULL,
    format text NOT NULL,
    status text NOT NULL,
    sha256 text DEFAULT ''::text NOT NULL,
    size bigint DEFAULT 0 NOT NULL,
    virtual_size bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    owner text DEFAULT 'default'::text NOT NULL,
    visibility text DEFAULT 'public'::text NOT NULL,
    protected boolean DEFAULT false NOT NULL,
    min_disk bigint DEFAULT 0 NOT NULL,
    min_ram bigint DEFAULT 0 NOT NULL,
    tags text[] DEFAULT '{}'::text[] NOT NULL,
    properties jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT image_check CHECK (((status = 'queued'::text) OR ((sha256 <> ''::text) AND (virtual_size > 0)))),
    CONSTRAINT image_format_check CHECK ((format = ANY (ARRAY['raw'::text, 'qcow2'::text]))),
    CONSTRAINT image_min_disk_check CHECK ((min_disk >= 0)),
    CONSTRAINT image_min_ram_check CHECK ((min_ram >= 0)),
    CONSTRAINT image_name_check CHECK (((length(name) >= 1) AND (length(name) <= 255))),
    CONSTRAINT image_sha256_check CHECK ((sha256 ~ '^([0-9a-f]{64})?$'::text)),
    CONSTRAINT image_size_check CHECK ((size >= 0)),
    CONSTRAINT image_status_check CHECK ((status = ANY (ARRAY['queued'::text, 'active'::text]))),
    CONSTRAINT image_virtual_size_check CHECK ((virtual_size >= 0)),
    CONSTRAINT image_visibility_check CHECK ((visibility = ANY (ARRAY['public'::text, 'private'::text, 'shared'::text, 'community'::text])))
);
CREATE TABLE public.instance (
    id uuid NOT NULL,
    name text NOT NULL,
    description text,
    project_id text NOT NULL,
    user_id text NOT NULL,
    vm_state text NOT NULL,
    task_state text,
    power_state text DEFAULT 'nostate'::text NOT NULL,
    host text,
    owner_epoch bigint DEFAULT 0 NOT NULL,
    generation bigint DEFAULT 1 NOT NULL,
    delete_requested boolean DEFAULT false NOT NULL,
    flavor_id text NOT NULL,
    flavor jsonb NOT NULL,
    vcpus integer NOT NULL,
    memory_mib bigint NOT NULL,
    disk_gib bigint NOT NULL,
    image_id uuid NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    key_name text,
    reservation_id text NOT NULL,
    fault_code text,
    fault_message text,
    fault_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    launched_at timestamp with time zone,
    deleted_at timestamp with time zone,
    locked_by text,
    locked_reason text,
    availability_zone text,
    hostname text,
    tags text[] DEFAULT '{}'::text[] NOT NULL,
    has_config_drive boolean DEFAULT false NOT NULL,
    CONSTRAINT instance_check CHECK (((deleted_at IS NULL) = (vm_state <> 'deleted'::text))),
    CONSTRAINT instance_check1 CHECK (((vm_state <> 'deleted'::text) OR ((task_state IS NULL) AND (host IS NULL)))),
    CONSTRAINT instance_disk_gib_check CHECK ((disk_gib >= 0)),
    CONSTRAINT instance_locked_by_check CHECK ((locked_by = ANY (ARRAY['owner'::text, 'admin'::text]))),
    CONSTRAINT instance_memory_mib_check CHECK ((memory_mib > 0)),
    CONSTRAINT instance_name_check CHECK (((length(name) >= 1) AND (length(name) <= 255))),
    CONSTRAINT instance_owner_epoch_check CHECK ((owner_epoch >= 0)),
    CONSTRAINT instance_power_state_check CHECK ((power_state = ANY (ARRAY['nostate'::text, 'running'::text, 'paused'::text, 'shutdown'::text, 'crashed'::text, 'suspended'::text]))),
    CONSTRAINT instance_task_state_check CHECK ((task_state = ANY (ARRAY['scheduling'::text, 'spawning'::text, 'powering-on'::text, 'powering-off'::text, 'rebooting'::text, 'rebooting_hard'::text, 'migrating'::text, 'resize_prep'::text, 'resize_migrating'::text, 'resize_finish'::text, 'resize_confirming'::text, 'resize_reverting'::text, 'rebuilding'::text, 'rebuild_spawning'::text, 'attaching_volume'::text, 'detaching_volume'::text, 'deleting'::text]))),
    CONSTRAINT instance_vcpus_check CHECK ((vcpus > 0)),
    CONSTRAINT instance_vm_state_check CHECK ((vm_state = ANY (ARRAY['building'::text, 'active'::text, 'paused'::text, 'stopped'::text, 'resized'::text, 'error'::text, 'deleted'::text])))
)
WITH (fillfactor='70');
CREATE TABLE public.keypair (
    user_id text NOT NULL,
    name text NOT NULL,
    number bigint NOT NULL,
    kind text NOT NULL,
    public_key text NOT NULL,
    fingerprint text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT keypair_kind_check CHECK ((kind = ANY (ARRAY['ssh'::text, 'x509'::text]))),
    CONSTRAINT keypair_name_check CHECK (((length(name) >= 1) AND (length(name) <= 255)))
);
ALTER TABLE public.keypair ALTER COLUMN number ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.keypair_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.migration (
    id uuid NOT NULL,
    number bigint NOT NULL,
    instance_id uuid NOT NULL,
    migration_type text NOT NULL,
    status text NOT NULL,
    source_compute text NOT NULL,
    dest_compute text,
    dest_host text,
    project_id text NOT NULL,
    user_id text NOT NULL,
    generation bigint DEFAULT 1 NOT NULL,
    memory_total bigint,
    memory_processed bigint,
    memory_remaining bigint,
    disk_total bigint,
    disk_processed bigint,
    disk_remaining bigint,
    total_ms bigint,
    downtime_ms bigint,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    old_flavor jsonb,
    new_flavor jsonb,
    was_running boolean,
    active boolean GENERATED ALWAYS AS ((status = ANY (ARRAY['accepted'::text, 'preparing'::text, 'running'::text, 'running (post-copy)'::text, 'pre-migrating'::text, 'migrating'::text, 'post-migrating'::text, 'finished'::text, 'confirming'::text, 'reverting'::text]))) STORED NOT NULL,
    awaits_source boolean GENERATED ALWAYS AS ((status = 'done'::text)) STORED NOT NULL,
    CONSTRAINT migration_flavors CHECK (((migration_type <> ALL (ARRAY['migration'::text, 'resize'::text])) OR ((old_flavor IS NOT NULL) AND (new_flavor IS NOT NULL) AND (was_running IS NOT NULL)))),
    CONSTRAINT migration_migration_type_check CHECK ((migration_type = ANY (ARRAY['live-migration'::text, 'migration'::text, 'resize'::text, 'evacuation'::text]))),
    CONSTRAINT migration_status_check CHECK ((status = ANY (ARRAY['accepted'::text, 'preparing'::text, 'running'::text, 'running (post-copy)'::text, 'completed'::text, 'pre-migrating'::text, 'migrating'::text, 'post-migrating'::text, 'finished'::text, 'confirming'::text, 'confirmed'::text, 'reverting'::text, 'reverted'::text, 'done'::text, 'cancelled'::text, 'failed'::text, 'error'::text])))
)
WITH (fillfactor='70');
ALTER TABLE public.migration ALTER COLUMN number ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.migration_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.network (
    id uuid NOT NULL,
    name text NOT NULL,
    bridge text NOT NULL,
    cidr text NOT NULL,
    pool_start text NOT NULL,
    pool_end text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT network_bridge_check CHECK ((bridge ~ '^[A-Za-z0-9_.-]{1,15}$'::text)),
    CONSTRAINT network_name_check CHECK (((length(name) >= 1) AND (length(name) <= 255)))
);
CREATE TABLE public.outbox (
    id uuid NOT NULL,
    exchange text NOT NULL,
    routing_key text NOT NULL,
    mandatory boolean NOT NULL,
    body text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    next_try_at timestamp with time zone DEFAULT (now() + '00:00:02'::interval) NOT NULL,
    tries integer DEFAULT 0 NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');
CREATE TABLE public.port (
    id uuid NOT NULL,
    network_id uuid NOT NULL,
    instance_id uuid NOT NULL,
    "position" integer NOT NULL,
    mac text NOT NULL,
    address text NOT NULL,
    CONSTRAINT port_mac_check CHECK ((mac ~ '^([0-9a-f]{2}:){5}[0-9a-f]{2}$'::text))
);
CREATE TABLE public.quota (
    project_id text NOT NULL,
    resource text NOT NULL,
    hard_limit bigint NOT NULL,
    CONSTRAINT quota_hard_limit_check CHECK ((hard_limit >= '-1'::integer)),
    CONSTRAINT quota_resource_check CHECK ((resource = ANY (ARRAY['instances'::text, 'cores'::text, 'ram'::text, 'key_pairs'::text, 'metadata_items'::text, 'server_groups'::text, 'server_group_members'::text])))
);
CREATE TABLE public.saga (
    id uuid NOT NULL,
    name text NOT NULL,
    version smallint NOT NULL,
    instance_id uuid NOT NULL,
    migration_id uuid,
    request_id text NOT NULL,
    project_id text NOT NULL,
    user_id text NOT NULL,
    phase text NOT NULL,
    step text DEFAULT ''::text NOT NULL,
    dir text DEFAULT 'do'::text NOT NULL,
    round integer DEFAULT 0 NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    tries integer DEFAULT 0 NOT NULL,
    wake_at timestamp with time zone,
    cancel_requested boolean DEFAULT false NOT NULL,
    cancelled boolean DEFAULT false NOT NULL,
    deferred boolean DEFAULT false NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    state jsonb NOT NULL,
    fault jsonb,
    trace_context text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT saga_check CHECK (((wake_at IS NULL) = (phase = ANY (ARRAY['completed'::text, 'unwound'::text, 'stuck'::text])))),
    CONSTRAINT saga_dir_check CHECK ((dir = ANY (ARRAY['do'::text, 'undo'::text]))),
    CONSTRAINT saga_phase_check CHECK ((phase = ANY (ARRAY['new'::text, 'running'::text, 'unwinding'::text, 'completed'::text, 'unwound'::text, 'stuck'::text])))
)
WITH (fillfactor='70');
CREATE TABLE public.saga_history (
    id bigint NOT NULL,
    saga_id uuid NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    entry jsonb NOT NULL
);
ALTER TABLE public.saga_history ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.saga_history_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.server_group (
    id uuid NOT NULL,
    project_id text NOT NULL,
    user_id text NOT NULL,
    name text NOT NULL,
    policy text NOT NULL,
    max_server_per_host integer,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT server_group_max_server_per_host_check CHECK ((max_server_per_host > 0)),
    CONSTRAINT server_group_name_check CHECK (((length(name) >= 1) AND (length(name) <= 255))),
    CONSTRAINT server_group_policy_check CHECK ((policy = ANY (ARRAY['affinity'::text, 'anti-affinity'::text, 'soft-affinity'::text, 'soft-anti-affinity'::text])))
);
CREATE TABLE public.server_group_member (
    instance_id uuid NOT NULL,
    group_id uuid NOT NULL
);
CREATE TABLE public.service (
    id uuid NOT NULL,
    binary_name text NOT NULL,
    host text NOT NULL,
    number bigint NOT NULL,
    reported_at timestamp with time zone DEFAULT now() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT service_binary_name_check CHECK ((binary_name = ANY (ARRAY['whimbrel-api'::text, 'whimbrel-conductor'::text, 'whimbrel-scheduler'::text])))
)
WITH (fillfactor='70');
ALTER TABLE public.service ALTER COLUMN number ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.service_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.volume (
    id uuid NOT NULL,
    project_id text NOT NULL,
    name text NOT NULL,
    size_gib bigint NOT NULL,
    source jsonb NOT NULL,
    status text NOT NULL,
    instance_id uuid,
    device text,
    attachment_id uuid,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT volume_check CHECK (((status = 'available'::text) = (instance_id IS NULL))),
    CONSTRAINT volume_check1 CHECK ((((instance_id IS NULL) = (device IS NULL)) AND ((instance_id IS NULL) = (attachment_id IS NULL)))),
    CONSTRAINT volume_device_check CHECK ((device ~ '^vd[b-z]$'::text)),
    CONSTRAINT volume_name_check CHECK ((length(name) <= 255)),
    CONSTRAINT volume_size_gib_check CHECK ((size_gib > 0)),
    CONSTRAINT volume_status_check CHECK ((status = ANY (ARRAY['available'::text, 'attaching'::text, 'in-use'::text, 'detaching'::text])))
);
ALTER TABLE ONLY public.__diesel_schema_migrations
    ADD CONSTRAINT __diesel_schema_migrations_pkey PRIMARY KEY (version);
ALTER TABLE ONLY public.aggregate_host
    ADD CONSTRAINT aggregate_host_pkey PRIMARY KEY (aggregate, host);
ALTER TABLE ONLY public.aggregate
    ADD CONSTRAINT aggregate_id_key UNIQUE (id);
ALTER TABLE ONLY public.aggregate
    ADD CONSTRAINT aggregate_name_key UNIQUE (name);
ALTER TABLE ONLY public.aggregate
    ADD CONSTRAINT aggregate_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.allocation
    ADD CONSTRAINT allocation_pkey PRIMARY KEY (consumer);
ALTER TABLE ONLY public.config_drive
    ADD CONSTRAINT config_drive_pkey PRIMARY KEY (instance_id);
ALTER TABLE ONLY public.dead_letter
    ADD CONSTRAINT dead_letter_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.flavor_access
    ADD CONSTRAINT flavor_access_pkey PRIMARY KEY (flavor_id, project_id);
ALTER TABLE ONLY public.flavor
    ADD CONSTRAINT flavor_name_key UNIQUE (name);
ALTER TABLE ONLY public.flavor
    ADD CONSTRAINT flavor_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.host
    ADD CONSTRAINT host_number_key UNIQUE (number);
ALTER TABLE ONLY public.host_obligation
    ADD CONSTRAINT host_obligation_pkey PRIMARY KEY (saga_id, round, step, dir);
ALTER TABLE ONLY public.host
    ADD CONSTRAINT host_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.host
    ADD CONSTRAINT host_service_id_key UNIQUE (service_id);
ALTER TABLE ONLY public.image
    ADD CONSTRAINT image_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.instance
    ADD CONSTRAINT instance_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.keypair
    ADD CONSTRAINT keypair_number_key UNIQUE (number);
ALTER TABLE ONLY public.keypair
    ADD CONSTRAINT keypair_pkey PRIMARY KEY (user_id, name);
ALTER TABLE ONLY public.migration
    ADD CONSTRAINT migration_number_key UNIQUE (number);
ALTER TABLE ONLY public.migration
    ADD CONSTRAINT migration_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.network
    ADD CONSTRAINT network_name_key UNIQUE (name);
ALTER TABLE ONLY public.network
    ADD CONSTRAINT network_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.port
    ADD CONSTRAINT port_instance_id_position_key UNIQUE (instance_id, "position");
ALTER TABLE ONLY public.port
    ADD CONSTRAINT port_mac_key UNIQUE (mac);
ALTER TABLE ONLY public.port
    ADD CONSTRAINT port_network_id_address_key UNIQUE (network_id, address);
ALTER TABLE ONLY public.port
    ADD CONSTRAINT port_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.quota
    ADD CONSTRAINT quota_pkey PRIMARY KEY (project_id, resource);
ALTER TABLE ONLY public.saga_history
    ADD CONSTRAINT saga_history_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.saga
    ADD CONSTRAINT saga_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.server_group_member
    ADD CONSTRAINT server_group_member_pkey PRIMARY KEY (instance_id);
ALTER TABLE ONLY public.server_group
    ADD CONSTRAINT server_group_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.service
    ADD CONSTRAINT service_binary_name_host_key UNIQUE (binary_name, host);
ALTER TABLE ONLY public.service
    ADD CONSTRAINT service_number_key UNIQUE (number);
ALTER TABLE ONLY public.service
    ADD CONSTRAINT service_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.volume
    ADD CONSTRAINT volume_instance_id_device_key UNIQUE (instance_id, device);
ALTER TABLE ONLY public.volume
    ADD CONSTRAINT volume_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.volume
    ADD CONSTRAINT volume_source_key UNIQUE (source);
CREATE INDEX allocation_host ON public.allocation USING btree (host);
CREATE INDEX allocation_instance ON public.allocation USING btree (instance_id);
CREATE INDEX host_obligation_host ON public.host_obligation USING btree (host);
CREATE INDEX instance_host ON public.instance USING btree (host) WHERE (host IS NOT NULL);
CREATE INDEX instance_list ON public.instance USING btree (created_at DESC, id DESC) WHERE (deleted_at IS NULL);
CREATE INDEX instance_project_list ON public.instance USING btree (project_id, created_at DESC, id DESC) WHERE (deleted_at IS NULL);
CREATE INDEX migration_awaits_source ON public.migration USING btree (source_compute) WHERE awaits_source;
CREATE INDEX migration_instance ON public.migration USING btree (instance_id);
CREATE INDEX migration_list ON public.migration USING btree (created_at DESC, number DESC);
CREATE UNIQUE INDEX migration_one_active ON public.migration USING btree (instance_id) WHERE active;
CREATE INDEX saga_active ON public.saga USING btree (id) WHERE (phase = ANY (ARRAY['new'::text, 'running'::text, 'unwinding'::text]));
CREATE INDEX saga_history_saga ON public.saga_history USING btree (saga_id, id);
CREATE INDEX saga_instance ON public.saga USING btree (instance_id, created_at);
CREATE UNIQUE INDEX saga_one_active ON public.saga USING btree (instance_id) WHERE (phase = ANY (ARRAY['new'::text, 'running'::text, 'unwinding'::text]));
CREATE INDEX server_group_members ON public.server_group_member USING btree (group_id);
CREATE INDEX volume_project_list ON public.volume USING btree (project_id, id);
CREATE TRIGGER allocation_added AFTER INSERT ON public.allocation REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION public.allocation_count();
CREATE TRIGGER allocation_changed AFTER UPDATE ON public.allocation REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION public.allocation_count();
CREATE TRIGGER allocation_removed AFTER DELETE ON public.allocation REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION public.allocation_count();
ALTER TABLE ONLY public.aggregate_host
    ADD CONSTRAINT aggregate_host_aggregate_fkey FOREIGN KEY (aggregate) REFERENCES public.aggregate(number);
ALTER TABLE ONLY public.aggregate_host
    ADD CONSTRAINT aggregate_host_host_fkey FOREIGN KEY (host) REFERENCES public.host(name) ON DELETE CASCADE;
ALTER TABLE ONLY public.allocation
    ADD CONSTRAINT allocation_host_fkey FOREIGN KEY (host) REFERENCES public.host(name);
ALTER TABLE ONLY public.allocation
    ADD CONSTRAINT allocation_instance_id_fkey FOREIGN KEY (instance_id) REFERENCES public.instance(id);
ALTER TABLE ONLY public.config_drive
    ADD CONSTRAINT config_drive_instance_id_fkey FOREIGN KEY (instance_id) REFERENCES public.instance(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.flavor_access
    ADD CONSTRAINT flavor_access_flavor_id_fkey FOREIGN KEY (flavor_id) REFERENCES public.flavor(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.host_obligation
    ADD CONSTRAINT host_obligation_host_fkey FOREIGN KEY (host) REFERENCES public.host(name);
ALTER TABLE ONLY public.instance
    ADD CONSTRAINT instance_host_fkey FOREIGN KEY (host) REFERENCES public.host(name);
ALTER TABLE ONLY public.instance
    ADD CONSTRAINT instance_image_id_fkey FOREIGN KEY (image_id) REFERENCES public.image(id);
ALTER TABLE ONLY public.migration
    ADD CONSTRAINT migration_instance_id_fkey FOREIGN KEY (instance_id) REFERENCES public.instance(id);
ALTER TABLE ONLY public.port
    ADD CONSTRAINT port_instance_id_fkey FOREIGN KEY (instance_id) REFERENCES public.instance(id);
ALTER TABLE ONLY public.port
    ADD CONSTRAINT port_network_id_fkey FOREIGN KEY (network_id) REFERENCES public.network(id);
ALTER TABLE ONLY public.saga
    ADD CONSTRAINT saga_instance_id_fkey FOREIGN KEY (instance_id) REFERENCES public.instance(id);
ALTER TABLE ONLY public.saga
    ADD CONSTRAINT saga_migration_id_fkey FOREIGN KEY (migration_id) REFERENCES public.migration(id);
ALTER TABLE ONLY public.server_group_member
    ADD CONSTRAINT server_group_member_group_id_fkey FOREIGN KEY (group_id) REFERENCES public.server_group(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.server_group_member
    ADD CONSTRAINT server_group_member_instance_id_fkey FOREIGN KEY (instance_id) REFERENCES public.instance(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.volume
    ADD CONSTRAINT volume_instance_id_fkey FOREIGN KEY (instance_id) REFERENCES public.instance(id);
