//! The control plane alone: simulated hosts whose moves take no time.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use whimbrel_lab::servers::Durability;
use whimbrel_lab::{Driver, Lab, Unit, guest, labs_dir};

use super::figures::{Figures, quantile};
use crate::cli::note;

const HOSTS: u8 = 4;
const SERVERS: usize = 500;
/// Moves one at a time.
const ALONE: usize = 100;
/// How often 50 and 500 at once are asked for; the best is told, since others use the machine, too.
const ROUNDS: usize = 3;
const GETS: usize = 2_000;
const PATIENCE: Duration = Duration::from_secs(180);
/// How often it is looked whether all have ended.
const LOOK: Duration = Duration::from_millis(100);
/// How often it is looked whether a single one has ended: not so often that looking is most of the work.
const LOOK_AT_ONE: Duration = Duration::from_millis(3);
/// Looking takes processor time that the move then lacks; nobody looks in this part of the shortest time seen.
const QUIET: f64 = 0.8;
/// Whose processor time counts, and what it is told under.
const PARTS: [(&str, Unit); 3] =
    [("conductor", Unit::Conductor), ("database", Unit::Database), ("broker", Unit::Broker)];
/// Memory that is no disk: a simulated hypervisor's guests cost nothing to write down.
const WORLDS: &str = "/dev/shm";

/// A batch of moves.
struct Batch {
    /// From each request to its final state, in milliseconds.
    latencies: Vec<f64>,
    seconds: f64,
    /// Of each of the parts, in milliseconds.
    cpu_ms: [f64; PARTS.len()],
}

struct Bench<'a> {
    lab: &'a Lab,
    client: reqwest::Client,
    url: String,
}

pub(super) fn measure(name: &str, figures: &mut Figures) -> anyhow::Result<()> {
    let image = guest::prepare(&labs_dir().join("cache"))?;
    let mut fake = toml::Table::new();
    let world = Path::new(WORLDS).join(format!("whimbrel-{name}-{}", std::process::id()));
    fake.insert("world_dir".to_owned(), world.display().to_string().into());
    note("simulated hosts: starting");
    let lab = Lab::builder().name(name).hosts(HOSTS).driver(Driver::Fake(fake));
    let lab = lab.durability(Durability::Durable).start()?;
    let measured = measure_in(&lab, &image, figures);
    let stopped = lab.stop();
    let removed = std::fs::remove_dir_all(&world).context("removing the simulated world");
    measured.and(stopped).and(removed)
}

fn measure_in(lab: &Lab, image: &guest::GuestImage, figures: &mut Figures) -> anyhow::Result<()> {
    let (flavor, image) = {
        let api = lab.api();
        let flavor = api.create_flavor("bench", 1, 64, 1)?;
        (flavor, api.create_image("bench", "qcow2", &image.qcow2)?)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bench = Bench {
        lab,
        client: reqwest::Client::builder().pool_max_idle_per_host(64).build()?,
        url: lab.api().url().to_owned(),
    };
    bench.memory(figures)?;
    runtime.block_on(bench.run(&flavor, &image, figures))
}

impl Bench<'_> {
    async fn run(&self, flavor: &str, image: &str, figures: &mut Figures) -> anyhow::Result<()> {
        note(&format!("simulated hosts: booting {SERVERS} servers"));
        let servers = self.boot(flavor, image).await?;
        for (at_once, rounds) in [(1, ALONE), (50, ROUNDS), (500, ROUNDS)] {
            note(&format!("simulated hosts: {at_once} moves at once"));
            let mut best: Option<Batch> = None;
            let mut all = Vec::new();
            let (mut seconds, mut cpu_ms) = (0.0, [0.0; PARTS.len()]);
            for round in 0..rounds {
                let from = round * at_once % SERVERS;
                let quiet = all.iter().copied().reduce(f64::min).unwrap_or_default() * QUIET;
                let batch = self.moves(&servers[from..from + at_once], quiet).await?;
                all.extend(&batch.latencies);
                seconds += batch.seconds;
                cpu_ms.iter_mut().zip(batch.cpu_ms).for_each(|(all, one)| *all += one);
                if best.as_ref().is_none_or(|best| batch.seconds < best.seconds) {
                    best = Some(batch);
                }
            }
            // One at a time there is enough of it to take all.
            let told = match best {
                Some(best) if at_once > 1 => best,
                _ => Batch { latencies: all, seconds, cpu_ms },
            };
            let count = told.latencies.len() as f64;
            figures.put(&format!("saga.{at_once}.per_s"), count / told.seconds);
            figures.put(&format!("saga.{at_once}.p50_ms"), quantile(&told.latencies, 0.5));
            figures.put(&format!("saga.{at_once}.p99_ms"), quantile(&told.latencies, 0.99));
            figures.put(&format!("saga.{at_once}.cpu_ms"), told.cpu_ms.iter().sum::<f64>() / count);
            for ((part, _), cpu_ms) in PARTS.iter().zip(told.cpu_ms) {
                figures.explain(&format!("saga.{at_once}.cpu_ms.{part}"), cpu_ms / count);
            }
        }
        note("simulated hosts: GET of a server");
        self.gets(&servers, figures).await
    }

    /// Before there is any work. Of the hosts the first stands for all.
    fn memory(&self, figures: &mut Figures) -> anyhow::Result<()> {
        let mut together = 0.0;
        let host = self.lab.host_names().first().context("no host")?.clone();
        for (name, unit) in [
            ("api", Unit::Api),
            ("conductor", Unit::Conductor),
            ("scheduler", Unit::Scheduler),
            ("compute", Unit::compute(&host)),
        ] {
            let kib = self.lab.memory_kib(&unit).with_context(|| format!("{name} has ended"))?;
            let mib = kib as f64 / 1_024.0;
            figures.put(&format!("pss_mib.{name}"), mib);
            together += mib;
        }
        figures.explain("pss_mib.together", together);
        Ok(())
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.client.post(format!("{}{path}", self.url)).json(body);
        let request = request.header("X-OpenStack-Nova-API-Version", "2.90");
        let answer = request.send().await.with_context(|| format!("POST {path}"))?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "POST {path}: {status}: {text}");
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.client.get(format!("{}{path}", self.url)).send().await?;
        let status = answer.status();
        let body = answer.json().await.with_context(|| format!("GET {path}"))?;
        ensure!(status.is_success(), "GET {path}: {status}: {body}");
        Ok(body)
    }

    /// 50 at a time.
    async fn boot(&self, flavor: &str, image: &str) -> anyhow::Result<Vec<String>> {
        let server = json!({ "server": {
            "name": "bench", "flavorRef": flavor, "imageRef": image, "networks": "none",
        } });
        let mut ids = Vec::with_capacity(SERVERS);
        while ids.len() < SERVERS {
            for _ in 0..50 {
                let made = self.post("/v2.1/servers", &server).await?;
                ids.push(made["server"]["id"].as_str().context("an id")?.to_owned());
            }
            let begun = Instant::now();
            for id in &ids[ids.len() - 50..] {
                loop {
                    let server = self.get(&format!("/v2.1/servers/{id}")).await?;
                    match server["server"]["status"].as_str() {
                        Some("ACTIVE") => break,
                        Some("ERROR") => bail!("a server is in ERROR: {server}"),
                        _ if begun.elapsed() > PATIENCE => {
                            bail!("a server is not booted: {server}")
                        }
                        _ => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            }
        }
        Ok(ids)
    }

    /// Asks for all moves at once and waits until the last is in its final state.
    /// A single one is left alone for the first `quiet` milliseconds.
    async fn moves(&self, servers: &[String], quiet: f64) -> anyhow::Result<Batch> {
        let cpu = self.cpu_ms();
        let begun = Utc::now();
        let asked = self.ask(servers).await?;
        let ended = if let [server] = servers {
            tokio::time::sleep(Duration::from_secs_f64(quiet / 1_000.0)).await;
            self.wait_for_one(server).await?;
            BTreeMap::from([(server.clone(), Utc::now())])
        } else {
            self.wait_for_all(servers.len(), begun).await?
        };
        let mut cpu_ms = self.cpu_ms();
        cpu_ms.iter_mut().zip(cpu).for_each(|(now, before)| *now -= before);
        let last = ended.values().max().context("nothing was moved")?;
        let seconds = ms(*last - begun) / 1_000.0;
        let latency = |(id, at): &(String, DateTime<Utc>)| {
            let end = ended.get(id).with_context(|| format!("{id} has no migration"))?;
            Ok(ms(*end - *at))
        };
        let latencies = asked.iter().map(latency).collect::<anyhow::Result<_>>()?;
        Ok(Batch { latencies, seconds, cpu_ms })
    }

    async fn ask(&self, servers: &[String]) -> anyhow::Result<Vec<(String, DateTime<Utc>)>> {
        let body = json!({ "os-migrateLive": { "host": null, "block_migration": "auto" } });
        // As many clients as there may be: 32 connections ask for all of it.
        let queue = std::sync::Arc::new(std::sync::Mutex::new(servers.to_vec()));
        let mut clients = JoinSet::new();
        for _ in 0..servers.len().min(32) {
            let (queue, body) = (std::sync::Arc::clone(&queue), body.clone());
            let (client, url) = (self.client.clone(), self.url.clone());
            clients.spawn(async move {
                let mut asked = Vec::new();
                loop {
                    let next =
                        queue.lock().map_err(|_| anyhow::anyhow!("a client panicked"))?.pop();
                    let Some(id) = next else { return anyhow::Ok(asked) };
                    let request = client.post(format!("{url}/v2.1/servers/{id}/action"));
                    let request = request.header("X-OpenStack-Nova-API-Version", "2.90");
                    let at = Utc::now();
                    let answer = request.json(&body).send().await?;
                    ensure!(
                        answer.status() == 202,
                        "{}: {}",
                        answer.status(),
                        answer.text().await?
                    );
                    asked.push((id, at));
                }
            });
        }
        let mut asked = Vec::with_capacity(servers.len());
        while let Some(client) = clients.join_next().await {
            asked.extend(client??);
        }
        Ok(asked)
    }

    /// As its client sees it.
    async fn wait_for_one(&self, server: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let body = self.get(&format!("/v2.1/servers/{server}")).await?;
            if body["server"]["OS-EXT-STS:task_state"].is_null() {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "a move does not end: {body}");
            tokio::time::sleep(LOOK_AT_ONE).await;
        }
    }

    /// When each came to its final state, by its record: looking at all of them as often as would be exact
    /// would be most of the work.
    async fn wait_for_all(
        &self,
        count: usize,
        begun: DateTime<Utc>,
    ) -> anyhow::Result<BTreeMap<String, DateTime<Utc>>> {
        let path = format!("/v2.1/os-migrations?limit={count}");
        let give_up = Instant::now() + PATIENCE;
        loop {
            let body = self.get(&path).await?;
            let mut ended = BTreeMap::new();
            for one in body["migrations"].as_array().context("migrations")? {
                let time = |key: &str| one[key].as_str().context("a time").and_then(utc);
                let status = one["status"].as_str().unwrap_or_default();
                if time("created_at")? >= begun && ["failed", "error"].contains(&status) {
                    let path =
                        format!("/v1/servers/{}/migrations/{}", one["instance_uuid"], one["uuid"]);
                    bail!("a move has {status}: {}", self.get(&path.replace('"', "")).await?);
                }
                if time("created_at")? >= begun && status == "completed" {
                    let id = one["instance_uuid"].as_str().context("an instance")?;
                    ended.insert(id.to_owned(), time("updated_at")?);
                }
            }
            if ended.len() == count {
                return Ok(ended);
            }
            ensure!(Instant::now() < give_up, "{} of {count} moves ended", ended.len());
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn gets(&self, servers: &[String], figures: &mut Figures) -> anyhow::Result<()> {
        let mut latencies = Vec::with_capacity(GETS);
        for id in servers.iter().cycle().take(GETS) {
            let begun = Instant::now();
            self.get(&format!("/v2.1/servers/{id}")).await?;
            latencies.push(begun.elapsed().as_secs_f64() * 1_000.0);
        }
        figures.put("api.get_server.p50_ms", quantile(&latencies, 0.5));
        figures.put("api.get_server.p99_ms", quantile(&latencies, 0.99));
        let begun = Instant::now();
        let mut clients = JoinSet::new();
        for part in servers.chunks(servers.len().div_ceil(8)) {
            let (client, url, part) = (self.client.clone(), self.url.clone(), part.to_vec());
            clients.spawn(async move {
                for id in part.iter().cycle().take(GETS / 4) {
                    let answer = client.get(format!("{url}/v2.1/servers/{id}")).send().await?;
                    ensure!(answer.status().is_success(), "{}", answer.status());
                    answer.bytes().await?;
                }
                Ok(())
            });
        }
        let clients = clients.join_all().await;
        let count = clients.len() * (GETS / 4);
        clients.into_iter().collect::<anyhow::Result<()>>()?;
        figures.put("api.get_server.per_s_8", count as f64 / begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Processor time that each of the parts has used so far, in milliseconds.
    fn cpu_ms(&self) -> [f64; PARTS.len()] {
        PARTS.map(|(_, unit)| {
            self.lab.process_id(&unit).map(whimbrel_lab::cpu_ms_of_tree).unwrap_or_default()
        })
    }
}

fn ms(span: TimeDelta) -> f64 {
    span.num_microseconds().unwrap_or(i64::MAX) as f64 / 1_000.0
}

/// The API's times have no zone; they are in UTC.
fn utc(text: &str) -> anyhow::Result<DateTime<Utc>> {
    let time = NaiveDateTime::parse_from_str(text.trim_end_matches('Z'), "%Y-%m-%dT%H:%M:%S%.f");
    Ok(time.with_context(|| format!("reading the time '{text}'"))?.and_utc())
}
