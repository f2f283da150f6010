//! Sources of settings, and which of them counts.

use std::path::Path;

use super::*;

struct Folder(PathBuf);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = std::env::temp_dir().join(format!("whimbrel-cli-{}", uuid::Uuid::new_v4()));
        for (name, text) in files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn flags(pairs: &[(&'static str, &str)]) -> BTreeMap<&'static str, String> {
    pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

const BASIC: &str = "
clouds:
  lab:
    auth_type: http_basic
    auth:
      endpoint: http://lab:8774/v2.1
      username: ann
    compute-endpoint-override: http://lab:8774/v2.1
    verify: false
  other-cloud:
    auth_type: none
    auth: {endpoint: 'http://other'}
";

#[test]
fn files_are_searched_for_in_the_order_of_the_sdk() {
    let env = environment(&[("HOME", "/home/ann")]);
    let expected = [".", "/home/ann/.config/openstack", "/etc/xdg/openstack", "/etc/openstack"];
    assert_eq!(clouds::folders(&env), expected.map(PathBuf::from));
    let env =
        environment(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x"), ("XDG_CONFIG_DIRS", "/y:/z")]);
    let expected = [".", "/x/openstack", "/y/openstack", "/etc/openstack"];
    assert_eq!(clouds::folders(&env), expected.map(PathBuf::from));

    let cloud = |n: u8| format!("clouds: {{c: {{region_name: r{n}}}}}");
    let texts: Vec<String> = (0..4).map(cloud).collect();
    let folder = Folder::new(&[
        ("one/none", ""),
        ("two/clouds.json", &texts[0].replace('c', "\"c\"")),
        ("two/clouds.yml", &texts[1]),
        ("three/clouds.yaml", &texts[2]),
        ("named.yaml", &texts[3]),
    ]);
    let folders: Vec<PathBuf> =
        ["one", "two", "three"].iter().map(|name| folder.0.join(name)).collect();
    let region = |env: &Environment, folders: &[PathBuf]| {
        clouds::choose(Some("c"), env, folders).unwrap()["region_name"].clone()
    };
    let none = Environment::new();
    assert_eq!(region(&none, &folders), "r1", "the first folder that has one, .yml before .json");
    assert_eq!(region(&none, &folders[2..]), "r2");
    let named = environment(&[("OS_CLIENT_CONFIG_FILE", &folder.path("named.yaml"))]);
    assert_eq!(region(&named, &folders), "r3");
    let missing = environment(&[("OS_CLIENT_CONFIG_FILE", &folder.path("missing.yaml"))]);
    let failure = clouds::choose(Some("c"), &missing, &folders).unwrap_err();
    assert!(failure.to_string().contains("missing.yaml"), "a file that is named must be there");
    let failure = clouds::choose(None, &none, &[Path::new("/nowhere").into()]).unwrap_err();
    assert_eq!(failure.kind as u8, 2);
}

#[test]
fn passwords_may_be_in_a_file_of_their_own() {
    let secure = "clouds: {lab: {auth: {password: s3}}}";
    let folder = Folder::new(&[("clouds.yaml", BASIC), ("secure.yaml", secure)]);
    let env = environment(&[
        ("OS_CLIENT_CONFIG_FILE", &folder.path("clouds.yaml")),
        ("OS_CLIENT_SECURE_FILE", &folder.path("secure.yaml")),
        ("OS_CLOUD", "lab"),
    ]);
    let settings = Settings::read(&flags(&[]), &env).unwrap();
    let password = "s3".to_owned().into();
    assert_eq!(settings.auth, Auth::Basic { username: "ann".to_owned(), password });
    assert!(settings.insecure);
    assert_eq!(settings.compute.as_deref(), Some("http://lab:8774/v2.1"));
    assert!(!format!("{settings:?}").contains("s3"), "a password is not for logs");
}

#[test]
fn flags_count_before_the_file_and_the_file_before_variables() {
    let folder = Folder::new(&[("clouds.yaml", BASIC)]);
    let env = environment(&[
        ("OS_CLIENT_CONFIG_FILE", &folder.path("clouds.yaml")),
        ("OS_CLOUD", "other-cloud"),
        ("OS_USERNAME", "of-variables"),
        ("OS_PASSWORD", "p"),
        ("OS_REGION_NAME", "here"),
    ]);
    let other = Settings::read(&flags(&[]), &env).unwrap();
    assert_eq!((other.auth, other.region.as_deref()), (Auth::None, Some("here")));
    let lab = Settings::read(&flags(&[("cloud", "lab")]), &env).unwrap();
    let Auth::Basic { username, password } = lab.auth else { panic!("{:?}", lab.auth) };
    assert_eq!((username.as_str(), password.reveal()), ("ann", "p"), "variables fill what is open");
    let own = flags(&[("cloud", "lab"), ("username", "eve"), ("insecure", "true")]);
    let Auth::Basic { username, .. } = Settings::read(&own, &env).unwrap().auth else { panic!() };
    assert_eq!(username, "eve");
}

#[test]
fn an_unclear_choice_names_the_clouds_there_are() {
    let folder = Folder::new(&[("clouds.yaml", BASIC)]);
    let file = folder.path("clouds.yaml");
    let env = environment(&[("OS_CLIENT_CONFIG_FILE", &file)]);
    for own in [flags(&[]), flags(&[("cloud", "nope")])] {
        let failure = Settings::read(&own, &env).unwrap_err();
        assert_eq!(failure.kind as u8, 2);
        assert!(failure.lines().join("\n").contains("lab, other-cloud"), "{failure:?}");
    }
    // Whoever says where it is needs no file.
    let own = flags(&[("endpoint", "http://here")]);
    let settings = Settings::read(&own, &env).unwrap();
    assert_eq!((settings.auth, settings.compute.as_deref()), (Auth::None, Some("http://here")));
}

#[test]
fn variables_alone_are_enough_for_keystone() {
    let env = environment(&[
        ("OS_AUTH_URL", "https://id/v3"),
        ("OS_USERNAME", "ann"),
        ("OS_PASSWORD", "p"),
        ("OS_PROJECT_NAME", "own"),
        ("OS_PROJECT_DOMAIN_NAME", "Sales"),
    ]);
    let auth = Settings::read(&flags(&[]), &env).unwrap().auth;
    let Auth::Keystone { url, identity } = auth else { panic!("{auth:?}") };
    let Identity::Password { user, project, .. } = *identity else { panic!("{identity:?}") };
    assert_eq!((url.as_str(), user.domain_id.as_deref()), ("https://id/v3", Some("default")));
    assert_eq!((project.domain_id, project.domain_name.as_deref()), (None, Some("Sales")));

    let env = environment(&[
        ("OS_AUTH_TYPE", "v3applicationcredential"),
        ("OS_AUTH_URL", "https://id/v3"),
        ("OS_APPLICATION_CREDENTIAL_ID", "7"),
    ]);
    let failure = Settings::read(&flags(&[]), &env).unwrap_err();
    let lines = failure.lines().join("\n");
    assert!(lines.contains("OS_APPLICATION_CREDENTIAL_SECRET"), "{lines}");
}
