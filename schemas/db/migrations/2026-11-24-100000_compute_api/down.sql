DROP TABLE quota, aggregate_host, aggregate, server_group_member, server_group, keypair, flavor_access;
ALTER TABLE image DROP COLUMN owner, DROP COLUMN visibility, DROP COLUMN protected, DROP COLUMN min_disk,
    DROP COLUMN min_ram, DROP COLUMN tags, DROP COLUMN properties;
ALTER TABLE flavor DROP COLUMN extra_specs;
ALTER TABLE instance DROP COLUMN locked_by, DROP COLUMN locked_reason, DROP COLUMN availability_zone,
    DROP COLUMN hostname, DROP COLUMN tags;
