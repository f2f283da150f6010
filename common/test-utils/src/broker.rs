//! A vhost per test.

use anyhow::Context;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// A vhost of one test. It is deleted with the value, and with it every queue, exchange and connection in it.
#[derive(Debug)]
pub struct TestBroker {
    amqp: String,
    management: Management,
    vhost: String,
}

impl TestBroker {
    /// Makes one.
    ///
    /// # Panics
    /// When `WHIMBREL_TEST_AMQP_URL` or `WHIMBREL_TEST_MANAGEMENT_URL` is not set or the broker refuses.
    pub async fn create() -> Self {
        let amqp = crate::address(crate::AMQP_URL);
        let management = Management { url: crate::address(crate::MANAGEMENT_URL) };
        let vhost = crate::unique_name("test");
        if let Err(error) = management.create_vhost(&vhost).await {
            panic!("no test vhost on {}: {error:#}", management.url);
        }
        Self { amqp, management, vhost }
    }

    /// Its address: `amqp://USER:PASSWORD@HOST:PORT/VHOST`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/{}", self.amqp, self.vhost)
    }

    /// Its name on the broker.
    #[must_use]
    pub fn vhost(&self) -> &str {
        &self.vhost
    }

    /// The address of the broker's management API, with user and password: `http://USER:PASSWORD@HOST:PORT`.
    #[must_use]
    pub fn management_url(&self) -> &str {
        &self.management.url
    }

    /// Closes every connection to this vhost at once: what its users see when the broker restarts.
    /// Returns how many there were. The broker lists a connection up to some seconds after it was made.
    ///
    /// # Errors
    /// When the management API can't be reached.
    pub async fn close_connections(&self) -> anyhow::Result<usize> {
        let path = format!("/api/vhosts/{}/connections", self.vhost);
        let connections = self.management.call(Method::GET, &path, None).await?;
        let names: Vec<&str> = connections
            .as_array()
            .map(|list| list.iter().filter_map(|connection| connection["name"].as_str()).collect())
            .unwrap_or_default();
        for name in &names {
            let path = format!("/api/connections/{}", percent_encode(name));
            self.management.call(Method::DELETE, &path, None).await?;
        }
        Ok(names.len())
    }

    /// Deletes a queue under whoever consumes it.
    ///
    /// # Errors
    /// When there is no such queue, or the management API can't be reached.
    pub async fn delete_queue(&self, name: &str) -> anyhow::Result<()> {
        let path = format!("/api/queues/{}/{name}", self.vhost);
        self.management.call(Method::DELETE, &path, None).await.map(drop)
    }

    /// The names of the queues in this vhost.
    ///
    /// # Errors
    /// When the management API can't be reached.
    pub async fn queues(&self) -> anyhow::Result<Vec<String>> {
        let path = format!("/api/queues/{}?columns=name", self.vhost);
        let queues = self.management.call(Method::GET, &path, None).await?;
        let names = queues.as_array().into_iter().flatten();
        Ok(names.filter_map(|queue| queue["name"].as_str().map(str::to_owned)).collect())
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        let management = self.management.clone();
        let path = format!("/api/vhosts/{}", self.vhost);
        crate::finish("a test vhost", move || async move {
            management.call(Method::DELETE, &path, None).await.map(drop)
        });
    }
}

#[derive(Clone, Debug)]
struct Management {
    url: String,
}

impl Management {
    async fn create_vhost(&self, vhost: &str) -> anyhow::Result<()> {
        // The user that makes a vhost over HTTP gets all permissions on it.
        self.call(Method::PUT, &format!("/api/vhosts/{vhost}"), Some(json!({}))).await.map(drop)
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let what = format!("{method} {path}");
        // A client of its own for each call: a pooled connection would belong to the runtime that made it.
        let client = reqwest::Client::builder().no_proxy().build()?;
        let mut request = client.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.with_context(|| what.clone())?;
        let status = response.status();
        let text = response.text().await.with_context(|| what.clone())?;
        // What is to be deleted may be gone already.
        if status == StatusCode::NOT_FOUND && what.starts_with("DELETE") {
            return Ok(Value::Null);
        }
        anyhow::ensure!(status.is_success(), "{what}: {status} {text}");
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }
}

fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_connection_is_encoded() {
        assert_eq!(percent_encode("127.0.0.1:5 -> x"), "127.0.0.1%3A5%20-%3E%20x");
    }

    #[tokio::test]
    async fn a_test_vhost_goes_with_its_value() {
        let broker = TestBroker::create().await;
        assert_eq!(broker.queues().await.unwrap(), Vec::<String>::new());

        let (management, vhost) = (broker.management.clone(), broker.vhost.clone());
        let path = format!("/api/permissions/{vhost}/whimbrel");
        let permissions = management.call(Method::GET, &path, None).await.unwrap();
        assert_eq!(permissions["configure"], ".*");

        drop(broker);
        assert!(management.call(Method::GET, &format!("/api/vhosts/{vhost}"), None).await.is_err());
    }
}
