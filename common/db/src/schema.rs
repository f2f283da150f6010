//! The tables as diesel sees them. A test holds this equal to the database after all migrations.

#![expect(missing_docs, reason = "the columns are described in schemas/db/migrations")]

diesel::table! {
    flavor (id) {
        id -> Text, name -> Text, vcpus -> Int4, memory_mib -> Int8, disk_gib -> Int8, is_public -> Bool,
        description -> Nullable<Text>, created_at -> Timestamptz, extra_specs -> Jsonb,
    }
}
diesel::table! {
    image (id) {
        id -> Uuid, name -> Text, format -> Text, status -> Text, sha256 -> Text, size -> Int8,
        virtual_size -> Int8, created_at -> Timestamptz, updated_at -> Timestamptz, owner -> Text,
        visibility -> Text, protected -> Bool, min_disk -> Int8, min_ram -> Int8, tags -> Array<Text>,
        properties -> Jsonb,
    }
}
diesel::table! {
    network (id) {
        id -> Uuid, name -> Text, bridge -> Text, cidr -> Text, pool_start -> Text, pool_end -> Text,
        created_at -> Timestamptz,
    }
}
diesel::table! {
    host (name) {
        name -> Text, service_id -> Uuid, number -> Int8, status -> Text, disabled_reason -> Nullable<Text>,
        forced_down -> Bool, vcpus -> Int4, memory_mib -> Int8, disk_gib -> Int8, vcpus_used -> Int4,
        memory_mib_used -> Int8, disk_gib_used -> Int8, hypervisor_type -> Text, hypervisor_version -> Int8,
        inventory -> Jsonb, guests -> Jsonb, agent_boot_id -> Nullable<Uuid>,
        agent_started_at -> Nullable<Timestamptz>, report_sequence -> Int8, report_interval_ms -> Int8,
        reported_at -> Nullable<Timestamptz>, created_at -> Timestamptz, updated_at -> Timestamptz,
    }
}
diesel::table! {
    service (id) {
        id -> Uuid, binary_name -> Text, host -> Text, number -> Int8, reported_at -> Timestamptz,
        created_at -> Timestamptz,
    }
}
diesel::table! {
    instance (id) {
        id -> Uuid, name -> Text, description -> Nullable<Text>, project_id -> Text, user_id -> Text,
        vm_state -> Text, task_state -> Nullable<Text>, power_state -> Text, host -> Nullable<Text>,
        owner_epoch -> Int8, generation -> Int8, delete_requested -> Bool, flavor_id -> Text, flavor -> Jsonb,
        vcpus -> Int4, memory_mib -> Int8, disk_gib -> Int8, image_id -> Uuid, metadata -> Jsonb,
        key_name -> Nullable<Text>, reservation_id -> Text, fault_code -> Nullable<Text>,
        fault_message -> Nullable<Text>, fault_at -> Nullable<Timestamptz>, created_at -> Timestamptz,
        updated_at -> Timestamptz, launched_at -> Nullable<Timestamptz>, deleted_at -> Nullable<Timestamptz>,
        locked_by -> Nullable<Text>, locked_reason -> Nullable<Text>, availability_zone -> Nullable<Text>,
        hostname -> Nullable<Text>, tags -> Array<Text>, has_config_drive -> Bool,
    }
}
diesel::table! {
    port (id) {
        id -> Uuid, network_id -> Uuid, instance_id -> Uuid, position -> Int4, mac -> Text, address -> Text,
    }
}
diesel::table! {
    migration (id) {
        id -> Uuid, number -> Int8, instance_id -> Uuid, migration_type -> Text, status -> Text,
        source_compute -> Text, dest_compute -> Nullable<Text>, dest_host -> Nullable<Text>,
        project_id -> Text, user_id -> Text, generation -> Int8, memory_total -> Nullable<Int8>,
        memory_processed -> Nullable<Int8>, memory_remaining -> Nullable<Int8>, disk_total -> Nullable<Int8>,
        disk_processed -> Nullable<Int8>, disk_remaining -> Nullable<Int8>, total_ms -> Nullable<Int8>,
        downtime_ms -> Nullable<Int8>, created_at -> Timestamptz, updated_at -> Timestamptz,
        old_flavor -> Nullable<Jsonb>, new_flavor -> Nullable<Jsonb>, was_running -> Nullable<Bool>,
        active -> Bool, awaits_source -> Bool,
    }
}
diesel::table! {
    saga (id) {
        id -> Uuid, name -> Text, version -> Int2, instance_id -> Uuid, migration_id -> Nullable<Uuid>,
        request_id -> Text, project_id -> Text, user_id -> Text, phase -> Text, step -> Text, dir -> Text,
        round -> Int4, attempt -> Int4, tries -> Int4, wake_at -> Nullable<Timestamptz>,
        cancel_requested -> Bool, cancelled -> Bool, deferred -> Bool, failures -> Int4, state -> Jsonb,
        fault -> Nullable<Jsonb>, trace_context -> Nullable<Text>, created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}
diesel::table! {
    saga_history (id) { id -> Int8, saga_id -> Uuid, at -> Timestamptz, entry -> Jsonb, }
}
diesel::table! {
    outbox (id) {
        id -> Uuid, exchange -> Text, routing_key -> Text, mandatory -> Bool, body -> Text,
        created_at -> Timestamptz, next_try_at -> Timestamptz, tries -> Int4,
    }
}
diesel::table! {
    allocation (consumer) {
        consumer -> Uuid, host -> Text, instance_id -> Uuid, vcpus -> Int4, memory_mib -> Int8,
        disk_gib -> Int8, created_at -> Timestamptz,
    }
}
diesel::table! {
    host_obligation (saga_id, round, step, dir) {
        saga_id -> Uuid, round -> Int4, step -> Text, dir -> Text, host -> Text, instance_id -> Uuid,
        command -> Jsonb, tries -> Int4, next_try_at -> Timestamptz, created_at -> Timestamptz,
    }
}
diesel::table! {
    dead_letter (id) {
        id -> Uuid, queue -> Text, reason -> Text, body -> Text, received_at -> Timestamptz,
    }
}
diesel::table! {
    flavor_access (flavor_id, project_id) { flavor_id -> Text, project_id -> Text, }
}
diesel::table! {
    keypair (user_id, name) {
        user_id -> Text, name -> Text, number -> Int8, kind -> Text, public_key -> Text, fingerprint -> Text,
        created_at -> Timestamptz,
    }
}
diesel::table! {
    server_group (id) {
        id -> Uuid, project_id -> Text, user_id -> Text, name -> Text, policy -> Text,
        max_server_per_host -> Nullable<Int4>, created_at -> Timestamptz,
    }
}
diesel::table! {
    server_group_member (instance_id) { instance_id -> Uuid, group_id -> Uuid, }
}
diesel::table! {
    aggregate (number) {
        number -> Int8, id -> Uuid, name -> Text, availability_zone -> Nullable<Text>, metadata -> Jsonb,
        created_at -> Timestamptz, updated_at -> Timestamptz,
    }
}
diesel::table! {
    aggregate_host (aggregate, host) { aggregate -> Int8, host -> Text, }
}
diesel::table! {
    quota (project_id, resource) { project_id -> Text, resource -> Text, hard_limit -> Int8, }
}
diesel::table! {
    volume (id) {
        id -> Uuid, project_id -> Text, name -> Text, size_gib -> Int8, source -> Jsonb, status -> Text,
        instance_id -> Nullable<Uuid>, device -> Nullable<Text>, attachment_id -> Nullable<Uuid>,
        created_at -> Timestamptz, updated_at -> Timestamptz,
    }
}
diesel::table! {
    config_drive (instance_id) { instance_id -> Uuid, content -> Jsonb, }
}

diesel::allow_tables_to_appear_in_same_query!(
    flavor,
    image,
    network,
    host,
    service,
    instance,
    port,
    migration,
    saga,
    saga_history,
    outbox,
    allocation,
    host_obligation,
    dead_letter,
    flavor_access,
    keypair,
    server_group,
    server_group_member,
    aggregate,
    aggregate_host,
    quota,
    volume,
    config_drive,
);
