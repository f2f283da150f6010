DROP TRIGGER allocation_added ON allocation;
DROP TRIGGER allocation_removed ON allocation;
DROP TRIGGER allocation_changed ON allocation;
DROP FUNCTION allocation_count();
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
