use super::*;

fn parse(text: &str) -> Result<LibvirtConfig, String> {
    toml::from_str(text).map_err(|error| error.to_string())
}

/// The key that is refused.
fn refused(text: &str) -> &'static str {
    let text = format!("migration_address = '10.0.0.1'\n{text}");
    parse(&text).unwrap().validate().unwrap_err().key
}

#[test]
fn only_the_address_must_be_given() {
    let config = parse("migration_address = '10.77.0.11'").unwrap();
    assert_eq!(config.validate(), Ok(()));
    assert_eq!(config.virt_type, VirtType::Kvm);
    assert_eq!(config.cpu_model(), "host-model");
    assert_eq!(config.destination_uri(), "qemu+tcp://10.77.0.11/system");
    assert_eq!(config.migrate_uri(), "tcp://10.77.0.11");
    assert_eq!(parse("").unwrap().validate().unwrap_err().key, "migration_address");
}

#[test]
fn a_key_that_is_not_known_is_refused() {
    assert!(parse("virt_typ = 'qemu'").unwrap_err().contains("virt_typ"));
    assert!(parse("[migration]\nbandwith_mib_s = 1").unwrap_err().contains("bandwith_mib_s"));
    assert!(parse("virt_type = 'xen'").is_err());
}

#[test]
fn the_emulator_gets_a_processor_that_can_move_unless_one_is_named() {
    let config = parse("virt_type = 'qemu'").unwrap();
    assert_eq!(config.cpu_model(), "qemu64");
    let config = parse("virt_type = 'qemu'\ncpu_model = 'Nehalem'").unwrap();
    assert_eq!(config.cpu_model(), "Nehalem");
}

#[test]
fn an_address_of_version_6_is_written_as_uris_need_it() {
    let config = parse("migration_address = 'fd00::11'").unwrap();
    assert_eq!(config.validate(), Ok(()));
    assert_eq!(config.destination_uri(), "qemu+tcp://[fd00::11]/system");
    assert_eq!(config.migrate_uri(), "tcp://[fd00::11]");
}

#[test]
fn options_that_cannot_be_together_are_refused_by_name() {
    for (text, key) in [
        ("instances_path = 'x'", "instances_path"),
        ("call_threads = 0", "call_threads"),
        ("[migration]\nmax_concurrent = 0", "migration.max_concurrent"),
        ("[migration]\nmax_concurrent = 17", "migration.max_concurrent"),
        ("[migration]\npoll_interval_ms = 0", "migration.poll_interval_ms"),
        ("[migration]\ncompression = 'zstd'", "migration.compression"),
        ("[migration]\ncompression = 'xbzrle'\nparallel_connections = 2", "migration.compression"),
        ("[migration]\npost_copy = true\nparallel_connections = 2", "migration.post_copy"),
    ] {
        assert_eq!(refused(text), key);
    }
    let address = parse("migration_address = '10.0.0.1/x'").unwrap();
    assert_eq!(address.validate().unwrap_err().key, "migration_address");
}
