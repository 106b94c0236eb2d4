use std::hash::{BuildHasher, Hasher, RandomState};

use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::json;
use tokio::sync::OnceCell;

use crate::object::of;
use crate::{Environment, Namespace, sample};

/// The control plane that all tests share.
pub struct TestCluster {
    environment: Environment,
    client: Client,
}

impl TestCluster {
    /// As the environment names it.
    ///
    /// # Panics
    ///
    /// When there is none, or it cannot be reached.
    pub async fn shared() -> Self {
        static PREPARED: OnceCell<()> = OnceCell::const_new();
        let environment = Environment::get();
        // A client belongs to the runtime that made it, and every test has its own.
        let client = client(&environment).await;
        PREPARED.get_or_init(|| prepare(&client)).await;
        Self { environment, client }
    }

    /// A new namespace, `name` and some random letters. It goes when the test succeeds and is kept when it fails.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub async fn namespace(&self, name: &str) -> Namespace {
        let name = format!("{name}-{}", random());
        Namespace::create_new(self.environment.clone(), self.client.clone(), name).await
    }
}

/// As the administrator.
pub(crate) async fn client(environment: &Environment) -> Client {
    client_of(environment, None).await
}

/// As a user that the administrator stands in for, with that user's rights only.
pub(crate) async fn client_as(environment: &Environment, user: &str) -> Client {
    let mut kubeconfig = Kubeconfig::read_from(&environment.kubeconfig).expect("a kubeconfig");
    for auth in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        auth.impersonate = Some(user.to_owned());
    }
    client_from(kubeconfig).await
}

/// As the administrator, of the API server at another address.
pub(crate) async fn client_of(environment: &Environment, server: Option<&str>) -> Client {
    let mut kubeconfig = Kubeconfig::read_from(&environment.kubeconfig).expect("a kubeconfig");
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        cluster.server = server.map(str::to_owned).or(cluster.server.take());
    }
    client_from(kubeconfig).await
}

async fn client_from(kubeconfig: Kubeconfig) -> Client {
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a kubeconfig that works");
    Client::try_from(config).expect("a kubeconfig that works")
}

/// What other operators bring along in a real cluster.
async fn prepare(client: &Client) {
    let definition = sample::database_definition();
    let target = of::<sample::CustomResourceDefinition>("");
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &target.resource());
    let parameters = PatchParams::apply("transom-tests").force();
    let name = definition["metadata"]["name"].as_str().unwrap();
    api.patch(name, &parameters, &Patch::Apply(&definition)).await.expect("an administrator");
    let established = |object: Option<&DynamicObject>| {
        let conditions = object.and_then(|object| object.data["status"]["conditions"].as_array());
        conditions.into_iter().flatten().any(|c| c["type"] == "Established" && c["status"] == json!("True"))
    };
    let wait = kube::runtime::wait::await_condition(api, name, established);
    tokio::time::timeout(crate::DEADLINE, wait).await.expect("a definition is established at once").unwrap();
}

/// Five letters and digits that no other test has.
fn random() -> String {
    const DIGITS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut number = usize::try_from(RandomState::new().build_hasher().finish() >> 8).unwrap();
    let digit = |_| {
        let digit = DIGITS[number % DIGITS.len()];
        number /= DIGITS.len();
        char::from(digit)
    };
    (0..5).map(digit).collect()
}
