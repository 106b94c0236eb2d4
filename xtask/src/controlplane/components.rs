//! The programs of a control plane and their flags.

use std::path::Path;
use std::process::Command;

use super::Layout;
use super::ports::Ports;
use crate::tools::Tools;

/// How many programs make a whole control plane.
pub(crate) const COUNT: usize = 5;

/// One of them, ready to start.
pub(crate) struct Component {
    pub(crate) name: &'static str,
    pub(crate) command: Command,
}

impl Component {
    fn new<const N: usize>(name: &'static str, program: &Path, flags: [String; N]) -> Self {
        let mut command = Command::new(program);
        command.args(flags);
        Self { name, command }
    }
}

/// etcd and the API server, started together: the second waits for the first by itself.
pub(crate) fn before_the_api(layout: &Layout, tools: &Tools, ports: &Ports) -> [Component; 2] {
    [etcd(layout, tools, ports), kube_apiserver(layout, tools, ports)]
}

/// What gives up when there is no API server yet.
pub(crate) fn on_the_api(layout: &Layout, tools: &Tools) -> [Component; COUNT - 2] {
    [kube_controller_manager(layout, tools), kube_scheduler(layout, tools), kwok(layout, tools)]
}

fn etcd(layout: &Layout, tools: &Tools, ports: &Ports) -> Component {
    let clients = etcd_address(ports);
    let peers = format!("http://127.0.0.1:{}", ports.etcd_peers);
    let flags = [
        format!("--data-dir={}", layout.etcd_data().display()),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
        // The data ends with the process.
        "--unsafe-no-fsync".into(),
        "--log-level=error".into(),
    ];
    Component::new("etcd", &tools.etcd, flags)
}

fn kube_apiserver(layout: &Layout, tools: &Tools, ports: &Ports) -> Component {
    let certificate = certificates(layout);
    let flags = [
        format!("--etcd-servers={}", etcd_address(ports)),
        format!("--secure-port={}", ports.api),
        "--bind-address=127.0.0.1".into(),
        "--advertise-address=127.0.0.1".into(),
        // It would write a certificate to /var/run otherwise.
        format!("--cert-dir={}", layout.certificates().display()),
        format!("--tls-cert-file={}", certificate("apiserver.crt")),
        format!("--tls-private-key-file={}", certificate("apiserver.key")),
        format!("--client-ca-file={}", certificate("ca.crt")),
        format!("--service-account-key-file={}", certificate("service-accounts.pub")),
        format!("--service-account-signing-key-file={}", certificate("service-accounts.key")),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        "--service-cluster-ip-range=10.0.0.0/16".into(),
        "--authorization-mode=RBAC".into(),
        "--allow-privileged=true".into(),
        // Measurements must not be those of its queues.
        "--enable-priority-and-fairness=false".into(),
        "--max-requests-inflight=0".into(),
        "--max-mutating-requests-inflight=0".into(),
        // Nobody looks this API server up through the service `kubernetes`.
        "--endpoint-reconciler-type=none".into(),
        format!("--audit-policy-file={}", layout.audit_policy().display()),
        format!("--audit-log-path={}", layout.audit_log().display()),
        // A request that was answered is in the file, so tests need not wait for it.
        "--audit-log-mode=blocking".into(),
    ];
    Component::new("kube-apiserver", &tools.kube_apiserver, flags)
}

fn kube_controller_manager(layout: &Layout, tools: &Tools) -> Component {
    let certificate = certificates(layout);
    let flags = [
        format!("--kubeconfig={}", layout.kubeconfig().display()),
        format!("--service-account-private-key-file={}", certificate("service-accounts.key")),
        format!("--root-ca-file={}", certificate("ca.crt")),
        format!("--cluster-signing-cert-file={}", certificate("ca.crt")),
        format!("--cluster-signing-key-file={}", certificate("ca.key")),
        "--use-service-account-credentials=true".into(),
        // No kubelet renews the nodes' heartbeats.
        "--node-monitor-grace-period=24h".into(),
        "--leader-elect=false".into(),
        "--secure-port=0".into(),
        "--kube-api-qps=500".into(),
        "--kube-api-burst=1000".into(),
    ];
    Component::new("kube-controller-manager", &tools.kube_controller_manager, flags)
}

fn kube_scheduler(layout: &Layout, tools: &Tools) -> Component {
    let flags = [
        format!("--kubeconfig={}", layout.kubeconfig().display()),
        "--leader-elect=false".into(),
        "--secure-port=0".into(),
        "--kube-api-qps=500".into(),
        "--kube-api-burst=1000".into(),
    ];
    Component::new("kube-scheduler", &tools.kube_scheduler, flags)
}

fn kwok(layout: &Layout, tools: &Tools) -> Component {
    let flags = [
        format!("--kubeconfig={}", layout.kubeconfig().display()),
        format!("--config={}", layout.stages().display()),
        "--manage-all-nodes=true".into(),
        "--node-ip=127.0.0.1".into(),
    ];
    Component::new("kwok", &tools.kwok, flags)
}

fn etcd_address(ports: &Ports) -> String {
    format!("http://127.0.0.1:{}", ports.etcd_clients)
}

fn certificates(layout: &Layout) -> impl Fn(&str) -> String {
    let folder = layout.certificates();
    move |name| folder.join(name).display().to_string()
}
