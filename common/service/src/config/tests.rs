use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;
use crate::LogConfig;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Sample {
    #[serde(default)]
    log: LogConfig,
    broker: Broker,
    identity: Option<Identity>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Broker {
    /// Where it is.
    #[schemars(extend("writeOnly" = true))]
    url: String,
    #[serde(default)]
    users_file: String,
    #[serde(default = "most")]
    most: u64,
}

fn most() -> u64 {
    u64::MAX
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Identity {
    #[schemars(extend("writeOnly" = true))]
    password: String,
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("whimbrel-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn with(&self, environment: &[(&str, &str)], settings: &[&str]) -> Sources {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Sources {
            file: Some(self.0.clone()),
            environment: environment.iter().map(owned).collect(),
            settings: settings.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

fn refused(sources: &Sources) -> String {
    load::<Sample>(sources).unwrap_err().to_string()
}

#[test]
fn an_unknown_key_is_refused_and_the_nearest_known_one_is_named() {
    let file = Scratch::new("unknown", "[log]\nlevle = \"debug\"\n[broker]\nulr = \"amqp://b\"\n");
    let said = refused(&file.with(&[], &[]));
    assert!(said.contains("log.levle is not known; did you mean log.level?"), "{said}");
    assert!(said.contains("broker.ulr is not known; did you mean broker.url?"), "{said}");
    assert!(said.contains(file.path()), "{said}");
}

#[test]
fn an_unknown_variable_is_refused_too() {
    let file = Scratch::new("variable", "[broker]\nurl = \"amqp://b\"\n");
    let said = refused(&file.with(&[("WHIMBREL__BROKER__MOTS", "1")], &[]));
    assert!(
        said.contains("the environment: broker.mots") && said.contains("broker.most"),
        "{said}"
    );
}

#[test]
fn a_key_that_resembles_none_gets_the_list() {
    let file = Scratch::new("list", "[broker]\nurl = \"x\"\n");
    let said = refused(&file.with(&[], &["broker.certificate_authority=1"]));
    assert!(said.contains("known here: ") && said.contains("users_file"), "{said}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let sources = Sources { file: Some("/nowhere/x.toml".into()), ..Sources::default() };
    assert!(refused(&sources).contains("/nowhere/x.toml can't be read"));
}

#[test]
fn what_is_not_said_has_its_default() {
    let file = Scratch::new("defaults", "[broker]\nurl = \"x\"\n");
    let sample = load::<Sample>(&file.with(&[], &[])).unwrap();
    assert_eq!((sample.log.level.as_str(), sample.broker.most), ("info", u64::MAX));
}

#[test]
fn flags_beat_the_environment_which_beats_the_file() {
    let file = Scratch::new("order", "[broker]\nurl = \"file\"\nmost = 1\n[log]\nlevel = \"a\"\n");
    let environment = [("WHIMBREL__BROKER__MOST", "2"), ("WHIMBREL__LOG__LEVEL", "b")];
    let sample = load::<Sample>(&file.with(&environment, &["broker.most=3"])).unwrap();
    let got = (sample.broker.url.as_str(), sample.log.level.as_str(), sample.broker.most);
    assert_eq!(got, ("file", "b", 3));
}

#[test]
fn a_password_of_digits_stays_a_text() {
    let file = Scratch::new("digits", "[broker]\nurl = \"x\"\n");
    let environment = [("WHIMBREL__IDENTITY__PASSWORD", "12345")];
    let sample = load::<Sample>(&file.with(&environment, &[])).unwrap();
    assert_eq!(sample.identity.unwrap().password, "12345");
}

#[test]
fn a_secret_is_read_from_the_file_that_is_named() {
    let secret = Scratch::new("secret", "amqp://u:p@b/v\n");
    let file = Scratch::new("by-file", &format!("[broker]\nurl_file = \"{}\"\n", secret.path()));
    assert_eq!(load::<Sample>(&file.with(&[], &[])).unwrap().broker.url, "amqp://u:p@b/v");

    let other = Scratch::new("other", "amqp://other");
    let environment = [("WHIMBREL__BROKER__URL_FILE", other.path())];
    let sample = load::<Sample>(&file.with(&environment, &[])).unwrap();
    assert_eq!(sample.broker.url, "amqp://other", "the environment beats the file");
}

#[test]
fn a_key_of_its_own_that_ends_in_file_is_left_alone() {
    let file = Scratch::new("users", "[broker]\nurl = \"x\"\nusers_file = \"/nowhere\"\n");
    assert_eq!(load::<Sample>(&file.with(&[], &[])).unwrap().broker.users_file, "/nowhere");
}

#[test]
fn a_secret_given_twice_or_empty_or_missing_is_refused() {
    let empty = Scratch::new("empty", "\n");
    let file = Scratch::new("twice", "[broker]\nurl = \"x\"\nurl_file = \"/nowhere\"\n");
    assert!(refused(&file.with(&[], &[])).contains("give one of them"));
    let file = Scratch::new("none", "");
    let at = |path: &str| refused(&file.with(&[("WHIMBREL__BROKER__URL_FILE", path)], &[]));
    assert!(at(empty.path()).contains("is empty"));
    assert!(at("/nowhere/secret").contains("/nowhere/secret"));
}

#[test]
fn a_value_of_the_wrong_kind_is_named_by_its_path() {
    let file = Scratch::new("kind", "[broker]\nurl = \"x\"\nmost = \"many\"\n");
    let said = refused(&file.with(&[], &[]));
    assert!(said.starts_with("broker.most: "), "{said}");
}

#[test]
fn a_syntax_error_does_not_quote_the_line() {
    let file = Scratch::new("syntax", "[broker]\nurl = \"secret\" x\n");
    let said = refused(&file.with(&[], &[]));
    assert!(said.contains("line 2") && !said.contains("secret\""), "{said}");
}

#[test]
fn what_is_printed_has_defaults_and_no_secrets() {
    let file = Scratch::new(
        "print",
        "[broker]\nurl = \"amqp://u:s3cret@b/v\"\n[identity]\npassword = \"s3cret\"\n",
    );
    let printed = print(&load::<Sample>(&file.with(&[], &[])).unwrap()).unwrap();
    assert!(!printed.contains("s3cret"), "{printed}");
    assert!(
        printed.contains("amqp://u:****@b/v") && printed.contains("password = \"****\""),
        "{printed}"
    );
    assert!(printed.contains("level = \"info\""), "{printed}");
}

#[test]
fn the_reference_names_keys_kinds_and_defaults() {
    let page = reference::<Sample>("sample");
    assert!(page.contains("### `[broker]`"), "{page}");
    assert!(page.contains("| `url` | secret | required | Where it is. |"), "{page}");
    assert!(page.contains("| `most` | integer | no limit |"), "{page}");
    assert!(page.contains("| `format` | `\"human\"`, `\"json\"` | `\"human\"` |"), "{page}");
}
