//! Names that reach Kubernetes. They are contracts: a change here rewrites every child of every primitive.

/// API group of the host's own kinds.
pub const GROUP: &str = "transom.dev";

/// On every child: UID of the primary. Watches of children are restricted to objects that have it, and it is the
/// inventory: written in the same request as the child, it cannot be lost in a crash between two writes.
pub const OWNER_LABEL: &str = "transom.dev/owner-uid";

/// On every child: name of the `Plugin` that asked for it.
pub const PLUGIN_LABEL: &str = "transom.dev/plugin";

/// On every child: digest of what was last applied. With it a field that the plugin no longer sets is noticed without
/// reading `managedFields`, also after a restart.
pub const APPLIED_ANNOTATION: &str = "transom.dev/applied";

/// On a child that stays when its primary goes.
pub const KEEP_ANNOTATION: &str = "transom.dev/keep";

/// Helm's word for the same, honoured on prune.
pub const HELM_KEEP_ANNOTATION: &str = "helm.sh/resource-policy";

/// On a child, by its plugin or a chart: fields that are written when it is created, and then belong to others. Paths such
/// as `spec.replicas`, with commas between them.
pub const SET_ONCE_ANNOTATION: &str = "transom.dev/set-once";

/// On a held child in a plan, for people: what it waits for. Written to no object.
pub const WAITS_FOR_ANNOTATION: &str = "transom.dev/waits-for";

/// On primaries whose clean-up needs the host.
pub const FINALIZER: &str = "transom.dev/cleanup";

/// On a primary: digest of the version of its plugin that is to serve it, whatever the record says.
pub const PIN_ANNOTATION: &str = "transom.dev/plugin-digest";

/// On a `Plugin` record: what a person wants of a roll-out, `approve ID STEP`, `abort ID` or `immediate REVISION`.
pub const ROLLOUT_ANNOTATION: &str = "transom.dev/rollout";

/// Condition of every primary, kept by the host: is what the plugin asked for what the API server has?
pub const SYNCED: &str = "Synced";

/// Condition of every primary, kept by the plugin; the host writes it only where the plugin could not.
pub const READY: &str = "Ready";

/// Reason of `Ready` while a primary is being deleted and something of it is still there.
pub const TERMINATING: &str = "Terminating";

/// Condition of a `Plugin`: is the version in its spec being rolled out?
pub const PROGRESSING: &str = "Progressing";

/// Condition of a `Plugin`, only there while it is True: the version in its spec may still come to serve. For kstatus.
pub const RECONCILING: &str = "Reconciling";

/// Condition of a `Plugin`, only there while it is True: the version in its spec will not serve until somebody acts. For
/// kstatus.
pub const STALLED: &str = "Stalled";

/// Condition of a `Plugin`: can its versions be loaded again when their sources and the host's cache are lost?
pub const STORED: &str = "Stored";

/// Condition of a primary that overlays are for, kept by the host: are all of them part of what is applied?
pub const OVERLAY_APPLIED: &str = "OverlayApplied";

/// Is this a label or annotation of the host's own?
#[must_use]
pub fn is_ours(name: &str) -> bool {
    name.split('/').next().is_some_and(|domain| domain == GROUP || domain.ends_with(".transom.dev"))
}

/// On a `Plugin` record that `transom dev` keeps: the record's name, by which a host for it alone selects it.
pub const DEV_LABEL: &str = "transom.dev/dev";

/// Field manager for server-side apply of one plugin's children. At most 128 bytes (Kubernetes'
/// `FieldManagerMaxLength`), which the 40 characters of a plugin's name cannot reach.
#[must_use]
pub fn field_manager(plugin: &str) -> String {
    format!("transom:{plugin}")
}
