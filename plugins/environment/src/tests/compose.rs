use std::collections::BTreeMap;

use proptest::prelude::*;

use transom_sdk::File;

use crate::compose::{env_lines, parse, wanted};

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

fn file(path: &str, content: &str) -> File {
    File { path: path.into(), content: content.as_bytes().to_vec() }
}

/// Both spellings of configs and secrets, from each source that they can have.
const ATTACHED: &str = r#"
services:
  web:
    image: nginx
    configs: [site, {source: page, target: /usr/share/nginx/html/index.html, mode: 288}]
    secrets: [db_password, {source: key, target: tls/key.pem}, elsewhere]
  setup:
    image: setup
    secrets: [key]
  late: {image: late, depends_on: {setup: {condition: service_completed_successfully}}}
configs:
  site: {file: ./nginx/site.conf}
  page: {content: "<h1>${TITLE:-shop}</h1>"}
  unused: {file: ./not-there}
secrets:
  db_password: {environment: DB_PASSWORD}
  key: {file: key.pem}
  elsewhere: {external: true}
"#;

#[test]
fn e6_configs_and_secrets_become_files_in_containers() {
    assert_eq!(wanted(ATTACHED), ["key.pem", "nginx/site.conf", "not-there"]);
    let variables = BTreeMap::from([("DB_PASSWORD".to_owned(), "hunter2".to_owned())]);
    let files = |site| [file("nginx/site.conf", site), file("key.pem", "-----KEY")];
    let made = |site| {
        let compose = parse(ATTACHED, &variables, &files(site)).unwrap();
        let items = compose.objects(&BTreeMap::new()).unwrap();
        let objects: Vec<_> = items.into_iter().map(|item| item.object).collect();
        serde_json::json!({ "objects": objects, "unsupported": compose.unsupported })
    };
    let first = made("server {}");
    insta::assert_yaml_snapshot!(first);
    // another content is another pod, but of the services that use it only
    let second = made("server { }");
    let changed = first["objects"].as_array().unwrap().iter().zip(second["objects"].as_array().unwrap());
    let changed: Vec<_> = changed.filter(|(a, b)| a != b).map(|(a, _)| a["metadata"]["name"].clone()).collect();
    assert_eq!(changed, ["config-site", "web"]);
}

#[test]
fn e6_configs_and_secrets_that_are_wrong_say_where() {
    for (text, said) in [
        ("services: {a: {image: x, configs: [c]}}", "services.a.configs: there is no c: add it to configs"),
        (
            "services: {a: {image: x, configs: [c]}}\nconfigs: {c: {file: ../c}}",
            "configs.c.file: there is no file ../c below the compose file's folder",
        ),
        (
            "services: {a: {image: x, secrets: [s]}}\nsecrets: {s: {environment: S}}",
            "secrets.s.environment: S is not set: set it in spec.config.env",
        ),
        ("services: {a: {image: x, secrets: [{target: b}]}}", "services.a.secrets: names no source: add source"),
        (
            "services: {a: {image: x, configs: [{source: c, target: /a/../b}]}}\nconfigs: {c: {content: x}}",
            "services.a.configs.target: \"/a/../b\" must be the path of a file",
        ),
        (
            "services: {a: {image: x, configs: [C]}}\nconfigs: {C: {content: x}}",
            "configs.C: must be lower-case letters, digits, - and _",
        ),
    ] {
        assert_eq!(error(text), said, "{text}");
    }
}

/// A service of this file that extends one of another, which extends one beside it.
const EXTENDING: &str = r#"
services:
  api:
    extends: {service: base, file: ./common.yaml}
    command: [serve]
    environment: [LOG_LEVEL=debug, MORE=1]
    ports: ["81"]
    volumes: ["data:/data:ro"]
    depends_on: {db: {condition: service_healthy}}
    healthcheck: {interval: 5s}
  worker: {extends: api, command: [work], deploy: {replicas: 3}}
  db: {image: postgres}
volumes: {data: , old: }
"#;
const COMMON: &str = r#"
services:
  base:
    extends: {service: root}
    command: [unused, words]
    environment: {LOG_LEVEL: info, KEPT: "yes"}
    ports: ["80"]
    volumes: ["old:/data", "/tmp/cache"]
    healthcheck: {test: [CMD, ok], interval: 60s, retries: 5}
    deploy: {resources: {limits: {memory: 1g}}}
  root: {image: "app:${TAG}", user: "7"}
"#;

#[test]
fn e6_services_extend_others_of_this_file_and_of_one_beside_it() {
    assert_eq!(wanted(EXTENDING), ["common.yaml"]);
    let variables = BTreeMap::from([("TAG".to_owned(), "2".to_owned())]);
    let compose = parse(EXTENDING, &variables, &[file("common.yaml", COMMON)]).unwrap();
    let items = compose.objects(&BTreeMap::new()).unwrap();
    let find = |name: &str| {
        let mut objects = items.iter().map(|item| &item.object);
        objects.find(|object| object["kind"] == "Deployment" && object["metadata"]["name"] == name).unwrap()
    };
    insta::assert_yaml_snapshot!(find("api"));
    let worker = find("worker");
    assert_eq!(worker["spec"]["replicas"], 3);
    assert_eq!(worker["spec"]["template"]["spec"]["containers"][0]["args"], serde_json::json!(["work"]));
    assert_eq!(worker["spec"]["template"]["spec"]["containers"][0]["image"], "app:2");
    assert_eq!(compose.unsupported, Vec::<String>::new());
}

#[test]
fn e6_an_extension_that_is_wrong_says_where() {
    let files = [
        file("other.yaml", "services: {b: {extends: {service: a, file: other.yaml}}, a: {extends: b}}"),
        file("list.yaml", "- a"),
        file("deep.yaml", "services: {b: {extends: {service: a, file: other.yaml}}}"),
    ];
    for (extends, said) in [
        ("b", "services.a.extends: there is no service b"),
        ("a", "services.a.extends: services extend one another: remove one"),
        ("{file: other.yaml}", "services.a.extends: names no service: add service"),
        ("{service: b, file: other.yaml}", "other.yaml: services.a.extends: services extend one another: remove one"),
        (
            "{service: b, file: deep.yaml}",
            "deep.yaml: services.b.extends.file: a file that is extended may not extend another one: move the service",
        ),
        ("{service: b, file: list.yaml}", "services.a.extends.file: list.yaml has no services"),
        ("{service: b, file: gone.yaml}", "services.a.extends.file: there is no file gone.yaml"),
        (
            "{service: b, file: ../up.yaml}",
            "services.a.extends.file: ../up.yaml is not beside the compose file: put it there",
        ),
    ] {
        let text = format!("services: {{a: {{image: x, extends: {extends}}}}}");
        assert_eq!(parse(&text, &BTreeMap::new(), &files).unwrap_err(), said, "{text}");
    }
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
            "configs": [word], "secrets": [{ "source": word, "target": word }], "extends": word, "env_file": word,
            "healthcheck": { "test": word, "interval": word }, "deploy": { "resources": { "limits": { "memory": word } } },
        } } });
        drop(parse(&text.to_string(), &BTreeMap::new(), &[]).map(|compose| compose.objects(&BTreeMap::new()).is_ok()));
    }
}
