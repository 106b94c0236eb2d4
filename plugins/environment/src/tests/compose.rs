use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::compose::{env_lines, parse};

fn objects(text: &str) -> serde_json::Value {
    let variables = BTreeMap::from([("TAG".to_owned(), "2".to_owned()), ("EMPTY".to_owned(), String::new())]);
    let compose = parse(text, &variables, &[]).unwrap();
    let items =
        compose.objects(&BTreeMap::from([("api".to_owned(), "registry.example/api:built".to_owned())])).unwrap();
    let items: Vec<_> =
        items.into_iter().map(|item| serde_json::json!({ "after": item.after, "object": item.object })).collect();
    serde_json::json!({ "items": items, "unsupported": compose.unsupported })
}

fn error(text: &str) -> String {
    match parse(text, &BTreeMap::new(), &[]) {
        Err(message) => message,
        Ok(compose) => compose.objects(&BTreeMap::new()).unwrap_err(),
    }
}

/// Everything that is carried over, in both of its spellings, and some of what is not.
const WHOLE: &str = r#"
version: "3.9"
name: shop
x-common: &common
  environment: {LOG_LEVEL: info, FLAG: true, NUMBER: 3, COST: $$5, TAG: }
services:
  api:
    <<: *common
    build: {context: api, dockerfile: Dockerfile.api, target: dev}
    entrypoint: ["/bin/api"]
    command: serve --name "two words" 'x y' a\ b
    ports: ["127.0.0.1:8080:80", "9090/udp", {target: 81, published: 8081, protocol: tcp}, 82]
    expose: ["83"]
    depends_on: [db, cache]
    healthcheck: {test: ["CMD", "curl", "-f", "http://localhost"], interval: 1m30s, timeout: 10s, retries: 3, start_period: 40s}
    user: "1000:1001"
    working_dir: /app
    read_only: true
    tmpfs: /tmp
    stop_grace_period: 20s
    restart: always
    deploy:
      replicas: 2
      resources: {limits: {cpus: "0.50", memory: 512M}, reservations: {memory: 20m}}
    cap_add: [NET_ADMIN]
  cache:
    image: "redis:${VERSION:-7}${EMPTY:+x}"
    environment: ["A=b=c", "TAG", "UNKNOWN"]
    healthcheck: {test: redis-cli ping}
    volumes:
      - /anonymous
      - type: volume
        source: app_data
        target: /data
        read_only: true
      - ./config:/config:ro
  db:
    image: postgres:$TAG
    volumes: ["app_data:/var/lib/postgresql/data"]
    healthcheck: {disable: true}
  debug: {image: busybox, profiles: [debug]}
volumes:
  app_data: {driver: nfs}
networks: {default: }
secrets: {password: {file: ./x}}
"#;

#[test]
fn e6_compose_files_become_objects() {
    insta::assert_yaml_snapshot!(objects(WHOLE));
}

#[test]
fn e6_a_compose_file_that_is_wrong_says_where() {
    for (text, said) in [
        ("services: {}", "services: there are none: add at least one"),
        (
            "services: {my_db: {image: x}}",
            "services.my_db: must be lower-case letters, digits and -: it becomes a host name",
        ),
        ("services: {a: {}}", "services.a: has neither image nor build: add one"),
        (
            "services: {a: {image: x, ports: ['80-90:80-90']}}",
            "services.a.ports: \"80-90\" is no port: ranges must be written out",
        ),
        ("services: {a: {image: x, volumes: ['v:/v']}}", "services.a.volumes: there is no volume v: add it to volumes"),
        ("services: {a: {image: x, depends_on: [b]}}", "services.a.depends_on: there is no service b"),
        (
            "services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [a]}}",
            "services.a.depends_on: services wait for one another: remove one",
        ),
        (
            "services: {a: {image: '${X:?give one}'}}",
            "services.a.image: X is not set: give one; set it in spec.config.env",
        ),
        ("services: {a: {image: 'x$'}}", "services.a.image: \"x$\": a $ without a name: write $$ for a $"),
        (
            "services: {a: {image: x, healthcheck: {test: x, interval: soon}}}",
            "services.a.healthcheck.interval: \"soon\" is no duration: it must look like 1m30s",
        ),
        ("services: {a: {image: x, env_file: .env}}", "services.a.env_file: there is no file .env"),
        ("- a", "must be a map with services"),
    ] {
        assert_eq!(error(text), said, "{text}");
    }
    assert!(error("a: [").starts_with("is no YAML"));
}

#[test]
fn environment_files_are_lines() {
    let expected = [("A", "1"), ("B", "two words"), ("C", "x=y")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(env_lines("# no\nA=1\nexport B=\"two words\"\n\nC='x=y'\nD\n"), expected.into());
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text: String) {
        drop(parse(&text, &BTreeMap::new(), &[]).map(|compose| compose.objects(&BTreeMap::new()).is_ok()));
    }

    #[test]
    fn any_word_in_a_compose_file_is_read_without_a_panic(word: String) {
        let text = serde_json::json!({ "services": { "a": {
            "image": word, "command": word, "ports": [word], "volumes": [word], "user": word, "stop_grace_period": word,
            "healthcheck": { "test": word, "interval": word }, "deploy": { "resources": { "limits": { "memory": word } } },
        } } });
        drop(parse(&text.to_string(), &BTreeMap::new(), &[]).map(|compose| compose.objects(&BTreeMap::new()).is_ok()));
    }
}
