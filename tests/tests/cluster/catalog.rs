//! The catalog, the plugin `instance` and the host together.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep};
use transom_tests::{DEADLINE, Environment, Postgres, condition, free_port, program, sample};

use crate::instance::Platform;

const TOKEN: &str = "token-of-admin-0123456789";

/// A request to the catalog: status code and body; none while it does not answer.
async fn ask(port: u16, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: catalog\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?.parse().ok()?;
    Some((code, serde_json::from_str(body).unwrap_or_default()))
}

/// Asks for something until the answer is as wanted.
async fn until(port: u16, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let answer = ask(port, "GET", path, &Value::Null).await;
        match answer {
            Some((code, body)) if wanted(code, &body) => return body,
            answer => assert!(started.elapsed() < DEADLINE, "GET {path}: {answer:?}"),
        }
        sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// I4, I5, I6: ordered by HTTP, it is a row, an object and a release; its status comes back into the row.
#[tokio::test]
async fn i4_i5_i6_what_is_ordered_by_http_runs_and_says_so() {
    let platform = Platform::start("catalog").await;
    let Platform { ns, own, .. } = &platform;
    let postgres = Postgres::shared().await;
    let administrator = postgres.superuser("postgres", "public");
    let create = format!("CREATE DATABASE \"{}\"", ns.name);
    administrator.connect().await.unwrap().batch_execute(&create).await.unwrap();
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("--{name}={}", path.display())
    };
    let url = format!("postgres://postgres:{}@127.0.0.1:{}/{}", administrator.password, administrator.port, ns.name);
    let tokens = json!([{ "token": TOKEN, "subject": "root", "admin": true }]);
    let binary = program().with_file_name("transom-catalog");
    let key = Command::new(&binary).args(["key", "first"]).output().await.unwrap();
    let keys = String::from_utf8(key.stdout).unwrap();
    let (port, operations) = (free_port(), free_port());
    let mut catalog = Command::new(&binary);
    catalog.arg("serve").arg(format!("--namespace={}", ns.name));
    catalog.args([file("database-url-file", url), file("keys-file", keys), file("tokens-file", tokens.to_string())]);
    catalog.args([format!("--listen=127.0.0.1:{port}"), format!("--operations-listen=127.0.0.1:{operations}")]);
    catalog.env("KUBECONFIG", Environment::get().kubeconfig).stdin(Stdio::null()).kill_on_drop(true);
    let _catalog = catalog.spawn().unwrap();
    until(operations, "/readyz", |code, _| code == 200).await;

    let post = async |path: &str, body: Value| {
        let (code, answer) = ask(port, "POST", path, &body).await.expect("an answer");
        assert!((200..300).contains(&code), "{code}: {answer}");
        answer
    };
    let chart = json!({ "folder": { "reference": "shop" } });
    let new = json!({ "chart": chart, "defaultValues": { "greeting": "welcome", "mode": "busy" } });
    let template = post("/template-versions", new).await["id"].clone();
    let order = json!({
        "productTemplateVersion": template, "domainName": format!("{}.example.org", ns.name), "namespace": own.name,
        "values": { "greeting": "hello" }, "secrets": { "motd": "hunter2" },
    });
    let made = post("/instances", order).await;
    let path = format!("/instances/{}", made["id"].as_str().unwrap());
    let runs = until(port, &path, |_, body| body["status"]["phase"] == "Running").await;
    assert_eq!(runs["status"]["releaseRevision"], 1);
    assert!(!runs.to_string().contains("hunter2"));

    // template, values and secrets are taken on as one release
    let next = json!({ "chart": chart, "defaultValues": { "greeting": "welcome back", "mode": "busy" } });
    let next = post("/template-versions", next).await["id"].clone();
    let change = json!({ "productTemplateVersion": next, "values": {}, "secrets": { "motd": "hunter2-new" } });
    let changed = post(&format!("{path}/upgrade"), change).await;
    assert_eq!(changed["status"]["phase"], "Upgrading");
    let runs = until(port, &path, |_, body| body["status"]["phase"] == "Running").await;
    assert_eq!((&runs["status"]["releaseRevision"], &runs["generation"]), (&json!(2), &json!(2)));
    let name = made["id"].as_str().unwrap().to_owned();
    ns.wait_for(transom_tests::of::<sample::CaelusInstance>(&name), condition("Ready", "True")).await;

    let (code, _) = ask(port, "DELETE", &path, &Value::Null).await.expect("an answer");
    assert_eq!(code, 202);
    until(port, &path, |code, _| code == 404).await;
    assert!(ns.find(transom_tests::of::<sample::CaelusInstance>(&name)).await.is_none());
    platform.end().await;
}
