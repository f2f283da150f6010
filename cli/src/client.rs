//! HTTP: which service is where, who is asking, and what answers mean.

mod keystone;

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Certificate, Method, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::{Auth, Secret, Settings};
use crate::error::Failure;

/// What requests are answered by unless they say otherwise.
const VERSION: &str = "2.96";
/// How long it may take to connect, and to answer.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(60);
/// How many there are on a page, and how many pages of a list are asked for at most.
const PAGE: usize = 1_000;
const PAGES: usize = 1_000;

/// A service of the cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Compute,
    Image,
    Network,
    /// What the Compute API has no place for. Only Whimbrel has it.
    Own,
}

#[derive(Debug)]
struct Endpoints {
    compute: Url,
    image: Url,
    network: Url,
    own: Url,
}

/// Asks a cloud.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    endpoints: Endpoints,
    basic: Option<(String, Secret)>,
    token: Option<HeaderValue>,
    version: String,
}

/// An answer that is no error.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: Value,
    pub(crate) request_id: Option<String>,
}

impl Answer {
    /// What the body has under a name.
    pub(crate) fn read<T: DeserializeOwned>(mut self, name: &str) -> Result<T, Failure> {
        serde_json::from_value(self.body[name].take()).map_err(|error| {
            Failure::unreachable(format!("The service's answer has no good '{name}'."))
                .because(error)
                .next("Is this the address of a Compute API? See --os-endpoint and clouds.yaml.")
        })
    }
}

/// One request, on its way to be sent.
#[derive(Debug)]
#[must_use]
pub(crate) struct Ask<'a> {
    client: &'a Client,
    request: reqwest::RequestBuilder,
    version: &'a str,
}

impl<'a> Ask<'a> {
    pub(crate) fn query(mut self, pairs: &[(&str, &str)]) -> Self {
        self.request = self.request.query(pairs);
        self
    }

    /// By another microversion.
    pub(crate) fn version(mut self, version: &'a str) -> Self {
        self.version = version;
        self
    }

    pub(crate) fn json(mut self, body: &Value) -> Self {
        self.request = self.request.json(body);
        self
    }

    /// Bytes that may take long.
    pub(crate) fn bytes(mut self, body: reqwest::Body) -> Self {
        let kind = HeaderValue::from_static("application/octet-stream");
        let request = self.request.header(reqwest::header::CONTENT_TYPE, kind);
        self.request = request.timeout(Duration::from_secs(24 * 3_600)).body(body);
        self
    }

    /// Sends it. What is no success is a failure.
    pub(crate) async fn send(self) -> Result<Answer, Failure> {
        let Client { basic, token, .. } = self.client;
        let mut request =
            self.request.header("OpenStack-API-Version", format!("compute {}", self.version));
        if let Some((name, password)) = basic {
            request = request.basic_auth(name, Some(password.reveal()));
        }
        if let Some(token) = token {
            request = request.header("X-Auth-Token", token.clone());
        }
        let response = request.send().await.map_err(no_answer)?;
        let (status, request_id) = (response.status(), request_id(response.headers()));
        let text = response.text().await.map_err(no_answer)?;
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        if status.is_success() || status == StatusCode::MULTIPLE_CHOICES {
            return Ok(Answer { body, request_id });
        }
        Err(Failure::answered(status.as_u16(), &message(&body, &text), request_id.as_deref()))
    }
}

fn request_id(headers: &HeaderMap) -> Option<String> {
    Some(headers.get("x-openstack-request-id")?.to_str().ok()?.to_owned())
}

/// What an error says: all services say it in an object of one key, but each has its own.
fn message(body: &Value, text: &str) -> String {
    let inner = body.as_object().and_then(|body| body.values().next());
    let found = [Some(body), inner].into_iter().flatten().find_map(|one| one["message"].as_str());
    let line = || text.lines().find(|line| !line.trim_start().starts_with('<'));
    found.or_else(line).unwrap_or_default().chars().take(500).collect()
}

/// Nobody answered.
fn no_answer(error: reqwest::Error) -> Failure {
    let at = error.url().map(|url| url.origin().ascii_serialization()).unwrap_or_default();
    let what = if error.is_timeout() {
        format!("{at} does not answer in time.")
    } else {
        format!("{at} can't be reached.")
    };
    let mut text = String::new();
    let mut source: Option<&dyn std::error::Error> = Some(&error);
    while let Some(one) = source {
        text += &one.to_string();
        source = one.source();
    }
    let next = if text.contains("certificate") {
        "Give the authority that signed its certificate with --os-cacert FILE, or 'cacert' in clouds.yaml."
    } else {
        "Is the service up, and is its address right? See --os-endpoint, --os-auth-url and clouds.yaml."
    };
    Failure::unreachable(what).because(error.without_url()).next(next)
}

fn read_file(path: &std::path::Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        Failure::usage(format!("{} can't be read.", path.display())).because(error)
    })
}

fn http(settings: &Settings) -> Result<reqwest::Client, Failure> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .timeout(ANSWER)
        .danger_accept_invalid_certs(settings.insecure)
        .user_agent(concat!("whimbrel/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = &settings.cacert {
        let bad = || Failure::usage(format!("{} has no certificates in PEM form.", path.display()));
        let all = Certificate::from_pem_bundle(&read_file(path)?);
        let all = all.map_err(|error| bad().because(error))?;
        if all.is_empty() {
            return Err(bad());
        }
        for one in all {
            builder = builder.add_root_certificate(one);
        }
    }
    if let Some((certificate, key)) = &settings.client_certificate {
        let mut pem = read_file(certificate)?;
        if let Some(key) = key {
            pem.extend(read_file(key)?);
        }
        let identity = reqwest::Identity::from_pem(&pem).map_err(|error| {
            let at = certificate.display();
            Failure::usage(format!("{at} has no certificate and key in PEM form.")).because(error)
        })?;
        builder = builder.identity(identity);
    }
    builder.build().map_err(|error| Failure::usage("TLS can't be set up.").because(error))
}

fn url(text: &str) -> Result<Url, Failure> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| {
        Failure::usage(format!("'{text}' is no address of a service."))
            .next("It looks like http://127.0.0.1:8774/v2.1")
    })
}

/// An address with the version of the API at its end, whether it was there or not.
fn versioned(text: &str, version: &str) -> Result<Url, Failure> {
    let text = text.trim_end_matches('/');
    let last = text.rsplit('/').next().unwrap_or_default();
    let is_version =
        |part: &str| part.starts_with('v') && part[1..].starts_with(|c: char| c.is_ascii_digit());
    // Older catalogs have the project behind the version.
    if is_version(last) || text.split('/').any(|part| is_version(part) && part.contains('.')) {
        return url(text);
    }
    url(&format!("{text}/{version}"))
}

/// The address without the version.
fn root(compute: &Url) -> Url {
    let mut root = compute.clone();
    let kept: Vec<&str> =
        compute.path().split('/').take_while(|part| *part != "v2.1" && *part != "v2").collect();
    root.set_path(&kept.join("/"));
    root
}

impl Endpoints {
    fn find(settings: &Settings, catalog: Option<&keystone::Catalog>) -> Result<Self, Failure> {
        let of_catalog = |kind: &str| {
            let region = settings.region.as_deref();
            catalog.and_then(|catalog| catalog.endpoint(kind, &settings.interface, region))
        };
        let compute = settings.compute.clone().or_else(|| of_catalog("compute"));
        let compute = compute.ok_or_else(|| {
            Failure::usage("Nothing says where the Compute API is.")
                .next("Give 'compute_endpoint_override' in clouds.yaml, or --os-endpoint.")
                .next("If it is in the identity service's catalog: is the region or interface another?")
        })?;
        let compute = versioned(&compute, "v2.1")?;
        let own = root(&compute);
        let beside = |given: &Option<String>, kind: &str, version: &str| {
            let given = given.clone().or_else(|| of_catalog(kind));
            versioned(given.as_deref().unwrap_or(own.as_str()), version)
        };
        Ok(Self {
            image: beside(&settings.image, "image", "v2")?,
            network: beside(&settings.network, "network", "v2.0")?,
            own: versioned(own.as_str(), "v1")?,
            compute,
        })
    }
}

impl Client {
    /// Gets what requests need: at most one token.
    pub(crate) async fn connect(settings: &Settings) -> Result<Self, Failure> {
        let http = http(settings)?;
        let (mut basic, mut token, mut catalog) = (None, None, None);
        match &settings.auth {
            Auth::None => {}
            Auth::Basic { username, password } => {
                basic = Some((username.clone(), password.clone()));
            }
            Auth::Keystone { url, identity } => {
                let issued = keystone::token(&http, &versioned(url, "v3")?, identity).await?;
                (token, catalog) = (Some(issued.0), Some(issued.1));
            }
        }
        let endpoints = Endpoints::find(settings, catalog.as_ref())?;
        let version = settings.compute_api_version.clone();
        let version = version.unwrap_or_else(|| VERSION.to_owned());
        Ok(Self { http, endpoints, basic, token, version })
    }

    /// A request; each part of the path is one, whatever is in it.
    pub(crate) fn ask(&self, method: Method, service: Service, path: &[&str]) -> Ask<'_> {
        let mut url = match service {
            Service::Compute => self.endpoints.compute.clone(),
            Service::Image => self.endpoints.image.clone(),
            Service::Network => self.endpoints.network.clone(),
            Service::Own => self.endpoints.own.clone(),
        };
        url.path_segments_mut().expect("an address by HTTP has a path").pop_if_empty().extend(path);
        Ask { client: self, request: self.http.request(method, url), version: &self.version }
    }

    pub(crate) fn get(&self, service: Service, path: &[&str]) -> Ask<'_> {
        self.ask(Method::GET, service, path)
    }

    /// All of a list of the Compute API, page by page, or as many as `most`.
    pub(crate) async fn pages<T: DeserializeOwned>(
        &self,
        path: &[&str],
        name: &str,
        query: &[(&str, &str)],
        most: Option<usize>,
        marker_of: impl Fn(&T) -> Option<String>,
    ) -> Result<Vec<T>, Failure> {
        let (mut all, mut marker): (Vec<T>, Option<String>) = (Vec::new(), None);
        for _ in 0..PAGES {
            let left = most.map_or(PAGE, |most| most - all.len()).min(PAGE);
            let limit = left.to_string();
            let mut ask = self.get(Service::Compute, path).query(query).query(&[("limit", &limit)]);
            if let Some(marker) = &marker {
                ask = ask.query(&[("marker", marker)]);
            }
            let answer = ask.send().await?;
            let more = !answer.body[format!("{name}_links")].is_null();
            all.extend(answer.read::<Vec<T>>(name)?);
            marker = all.last().and_then(&marker_of);
            if !more || marker.is_none() || most.is_some_and(|most| all.len() >= most) {
                break;
            }
        }
        Ok(all)
    }

    /// The bytes of an answer that may be long.
    pub(crate) async fn stream(
        &self,
        service: Service,
        path: &[&str],
    ) -> Result<Response, Failure> {
        let ask = self.get(service, path);
        let mut request = ask.request.timeout(Duration::from_secs(24 * 3_600));
        if let Some((name, password)) = &self.basic {
            request = request.basic_auth(name, Some(password.reveal()));
        }
        if let Some(token) = &self.token {
            request = request.header("X-Auth-Token", token.clone());
        }
        let response = request.send().await.map_err(no_answer)?;
        let (status, id) = (response.status(), request_id(response.headers()));
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.map_err(no_answer)?;
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Err(Failure::answered(status.as_u16(), &message(&body, &text), id.as_deref()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_has_the_version_once() {
        for (given, expected) in [
            ("http://h:8774", "http://h:8774/v2.1"),
            ("http://h:8774/", "http://h:8774/v2.1"),
            ("http://h:8774/v2.1/", "http://h:8774/v2.1"),
            ("https://h/compute", "https://h/compute/v2.1"),
            ("https://h/compute/v2.1", "https://h/compute/v2.1"),
            ("https://h/v2.1/f00", "https://h/v2.1/f00"),
        ] {
            assert_eq!(versioned(given, "v2.1").unwrap().as_str(), expected);
        }
        assert_eq!(root(&url("https://h/compute/v2.1").unwrap()).as_str(), "https://h/compute");
        assert_eq!(root(&url("http://h:1/v2.1").unwrap()).as_str(), "http://h:1/");
        assert_eq!(versioned("nowhere", "v2.1").unwrap_err().kind as u8, 2);
    }

    #[test]
    fn each_service_says_errors_in_its_own_way() {
        let nova = json!({ "conflictingRequest": { "code": 409, "message": "Cannot" } });
        assert_eq!(message(&nova, ""), "Cannot");
        let neutron = json!({ "NeutronError": { "type": "X", "message": "No" } });
        assert_eq!(message(&neutron, ""), "No");
        assert_eq!(message(&json!({ "code": 400, "message": "Flat" }), ""), "Flat");
        assert_eq!(message(&Value::Null, "<html>\nBad gateway\n</html>"), "Bad gateway");
    }
}
