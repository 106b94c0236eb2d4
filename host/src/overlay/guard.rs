//! What an overlay may change. The built-in rules hold for every plugin; a plugin's record narrows them, and opens the
//! few that [`Permission`] names.
//!
//! Rules are held against the differences that a patch made ([`super::change`]), place by place. What is not known to be
//! harmless by its place is looked at by name, at any depth, so that kinds of custom resources are covered as well.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::change::Change;
use crate::api::names;
use crate::api::overlay::{OverlayRules, PathRule, Permission, ValueLimit};
use crate::plan::contract::TypeMeta;
use crate::plan::glob;
use crate::plan::path::{Part, Path, Pattern, said};
use crate::plan::quantity;

/// Why a change is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Where.
    pub path: String,
    /// Which rule: the name of a built-in one, or the field of the record.
    pub rule: String,
    /// What the rule says.
    pub says: String,
}

impl std::fmt::Display for Breach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.path, self.rule, self.says)
    }
}

/// The rules of one plugin, ready for use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rails {
    /// As the record has them.
    pub rules: OverlayRules,
    allow: Vec<(Option<String>, Pattern)>,
    deny: Vec<(Option<String>, Pattern)>,
    limits: Vec<Limit>,
}

#[derive(Clone, Debug, PartialEq)]
struct Limit {
    kind: Option<String>,
    text: String,
    pattern: Pattern,
    min: Option<(i128, String)>,
    max: Option<(i128, String)>,
    values: Vec<String>,
}

/// What a child's neighbours and its plugin say of it.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Kind of the child.
    pub kind: &'a TypeMeta,
    /// The child as the plugin asks for it.
    pub planned: &'a Value,
    /// The child after the patch.
    pub patched: &'a Value,
    /// Labels that selectors of the plan speak of.
    pub selected: &'a BTreeSet<String>,
}

impl Rails {
    /// Reads the rules of a record.
    ///
    /// # Errors
    /// The field and what is wrong with it.
    pub fn new(rules: &OverlayRules) -> Result<Self, String> {
        let paths = |field: &str, rules: &[PathRule]| -> Result<Vec<(Option<String>, Pattern)>, String> {
            let read = |(i, rule): (usize, &PathRule)| match Pattern::parse(&rule.path) {
                Ok(pattern) => Ok((rule.kind.clone(), pattern)),
                Err(why) => Err(format!("spec.overlays.{field}[{i}].path: {why}")),
            };
            rules.iter().enumerate().map(read).collect()
        };
        let limits = rules.limits.iter().enumerate();
        let limits: Result<Vec<Limit>, String> = limits
            .map(|(i, limit)| Limit::read(limit).map_err(|why| format!("spec.overlays.limits[{i}].{why}")))
            .collect();
        Ok(Self {
            allow: paths("allow", &rules.allow)?,
            deny: paths("deny", &rules.deny)?,
            limits: limits?,
            rules: rules.clone(),
        })
    }

    /// The first change that is not allowed.
    ///
    /// # Errors
    /// Which, and by which rule.
    pub fn check(&self, context: Context<'_>, changes: &[Change]) -> Result<(), Breach> {
        for change in changes {
            self.built_in(context, change)?;
            if change.item {
                self.sidecar_limits(context, change, changes)?;
            } else {
                self.recorded(context.kind, change)?;
            }
        }
        Ok(())
    }

    fn recorded(&self, kind: &TypeMeta, change: &Change) -> Result<(), Breach> {
        let of_kind = |wanted: &Option<String>| wanted.as_ref().is_none_or(|wanted| *wanted == kind.kind);
        let covers =
            |(wanted, pattern): &(Option<String>, Pattern)| of_kind(wanted) && pattern.along(&change.path).above;
        if let Some(i) = self.deny.iter().position(covers) {
            let denied = self.rules.deny.get(i).map(|rule| rule.path.clone()).unwrap_or_default();
            return breach(&change.path, format!("deny {denied}"), "the plugin's record denies this field");
        }
        if !self.allow.is_empty() && !self.allow.iter().any(covers) {
            return breach(&change.path, "allow", "the plugin's record does not allow this field");
        }
        for limit in self.limits.iter().filter(|limit| of_kind(&limit.kind)) {
            limit.check(change)?;
        }
        Ok(())
    }

    /// A container that comes without the fields that are bounded would have no bound at all.
    fn sidecar_limits(&self, context: Context<'_>, item: &Change, changes: &[Change]) -> Result<(), Breach> {
        if item.after.is_none() || !is_container(&item.path) {
            return Ok(());
        }
        let kind = &context.kind.kind;
        let bounds = |limit: &&Limit| {
            limit.kind.as_ref().is_none_or(|wanted| wanted == kind) && limit.pattern.along(&item.path).below
        };
        for limit in self.limits.iter().filter(bounds) {
            let set = |change: &Change| {
                !change.item && item.path.holds(&change.path) && limit.pattern.along(&change.path).exact
            };
            if !limit.is_loose() && !changes.iter().any(set) {
                return breach(
                    &item.path,
                    limit.rule(),
                    "a container of an overlay must set every field that is bounded",
                );
            }
        }
        Ok(())
    }

    fn permits(&self, permission: Permission) -> bool {
        self.rules.permit.contains(&permission)
    }

    fn built_in(&self, context: Context<'_>, change: &Change) -> Result<(), Breach> {
        let refuse = |rule: &str, says: &str| breach(&change.path, rule, says);
        match change.path.field_at(0) {
            Some("metadata") if matches!(change.path.field_at(1), Some("labels" | "annotations")) => {}
            Some("apiVersion" | "kind" | "metadata") => {
                return refuse("Identity", "what an object is stays the plugin's");
            }
            Some("status") => return refuse("Identity", "the status is not the plugin's to set"),
            None => return refuse("Identity", "an object must stay an object"),
            Some(_) => {}
        }
        if is_text_of(&change.path, context.kind) {
            return Ok(());
        }
        let template = template(&change.path);
        if is_container(&change.path) && change.item {
            return self.container(context, change);
        }
        let free = change.path.fields().any(|field| matches!(field, "affinity" | "topologySpreadConstraints"));
        let above = template.as_ref().map_or(change.path.0.len(), |(at, _)| *at);
        for field in change.path.0.iter().take(above) {
            let Part::Field(field) = field else { continue };
            if field == "nodeSelector" {
                return Ok(()); // its keys are labels of nodes
            }
            if let Some((rule, says)) = self.name(field, free) {
                return refuse(rule, says);
            }
        }
        match template {
            Some((_, Entry::Label(name))) => return self.label(context, change, name),
            Some((_, Entry::Annotation(name))) => return annotation(change, name),
            Some((_, Entry::Other)) => return refuse("Identity", "must map names to texts"),
            None => {}
        }
        self.volume(change)?;
        if let Some(at) = change.path.fields().position(|field| field.to_lowercase().contains("securitycontext")) {
            return tightening(change, at);
        }
        if context.kind.kind == "Service" && context.kind.group().is_empty() {
            return self.service(change);
        }
        Ok(())
    }

    /// Fields that are refused by their name, wherever they are.
    fn name(&self, field: &str, in_affinity: bool) -> Option<(&'static str, &'static str)> {
        const HOST: &str = "a pod of an overlay gets nothing of its node";
        const SCHEDULING: &str = "the record does not permit it";
        let lower = field.to_lowercase();
        let opened = |permission| if self.permits(permission) { None } else { Some(("Permission", SCHEDULING)) };
        match field {
            "hostNetwork" | "hostPID" | "hostIPC" | "hostUsers" | "hostPath" | "hostPort" | "hostIP" => {
                Some(("HostAccess", HOST))
            }
            "volumeDevices" | "sysctls" | "procMount" => Some(("HostAccess", HOST)),
            "seLinuxOptions" | "windowsOptions" | "appArmorProfile" => {
                Some(("Privilege", "isolation stays the plugin's"))
            }
            "nodeName" | "schedulerName" | "schedulingGates" => Some(("Placement", "the scheduler places pods")),
            "ephemeralContainers" => Some(("Containers", "not part of what a plugin asks for")),
            "runtimeClassName" => opened(Permission::RuntimeClass),
            "priorityClassName" | "priority" | "preemptionPolicy" => opened(Permission::Priority),
            "tolerations" => opened(Permission::Tolerations),
            "namespace" | "namespaces" | "namespaceSelector" => {
                Some(("Namespace", "an overlay does not reach outside its namespace"))
            }
            "selector" | "matchLabels" | "matchExpressions" | "podSelector" | "labelSelector" if !in_affinity => {
                Some(("Selector", "selectors stay the plugin's"))
            }
            "immutable" => Some(("Identity", "the plugin must be able to change the object")),
            "ownerReferences" | "finalizers" | "managedFields" | "generateName" => {
                Some(("Identity", "ownership stays the plugin's"))
            }
            "scaleTargetRef" | "volumeName" | "dataSource" | "dataSourceRef" | "resourceClaims" => {
                Some(("Reference", "references to other objects stay the plugin's"))
            }
            _ if lower.contains("serviceaccount") || lower.contains("impersonat") => {
                Some(("ServiceAccount", "the account of a pod stays the plugin's"))
            }
            // a ServiceMonitor's bearerTokenFile is a file of Prometheus
            _ if field.ends_with("File") => Some(("Reference", "files of other programs stay the plugin's")),
            _ if lower.contains("secret") => Some(("Secret", "an overlay names no Secrets")),
            _ => None,
        }
    }

    fn label(&self, context: Context<'_>, change: &Change, name: &str) -> Result<(), Breach> {
        if names::is_ours(name) {
            return breach(&change.path, "Identity", "the host's own labels");
        }
        if context.selected.contains(name) {
            return breach(&change.path, "Selector", "a selector of this primary speaks of this label");
        }
        if lookup(context.planned, &change.path).is_some() {
            return breach(&change.path, "Selector", "labels that the plugin sets stay; others may be added");
        }
        Ok(())
    }

    /// A container comes or goes.
    fn container(&self, context: Context<'_>, change: &Change) -> Result<(), Breach> {
        let Some(container) = &change.after else {
            return breach(&change.path, "Containers", "a container of the plugin cannot be removed");
        };
        if !self.permits(Permission::Sidecars) {
            return breach(&change.path, "Permission", "containers can be added where the record permits Sidecars");
        }
        let set = |path: &str| container.pointer(path);
        let pod = change.path.0.len().checked_sub(2).and_then(|n| change.path.0.get(..n)).map(|p| Path(p.to_vec()));
        let pod = pod.and_then(|pod| lookup(context.patched, &pod));
        let non_root = set("/securityContext/runAsNonRoot")
            .or_else(|| pod.and_then(|pod| pod.pointer("/securityContext/runAsNonRoot")));
        let drops = set("/securityContext/capabilities/drop").and_then(Value::as_array);
        let restricted = set("/securityContext/allowPrivilegeEscalation") == Some(&Value::Bool(false))
            && drops.is_some_and(|drops| drops.iter().any(|drop| drop == "ALL"))
            && non_root == Some(&Value::Bool(true));
        if restricted {
            return Ok(());
        }
        breach(
            &change.path,
            "Sidecars",
            "securityContext must have allowPrivilegeEscalation: false, capabilities.drop: [ALL], runAsNonRoot: true",
        )
    }

    /// Volumes that are harmless: made for the pod, or from ConfigMaps.
    fn volume(&self, change: &Change) -> Result<(), Breach> {
        let parts = &change.path.0;
        let Some(at) = parts.iter().position(|part| *part == Part::Field("volumes".into())) else { return Ok(()) };
        let source = match (parts.get(at + 1), change.path.field_at(at + 2)) {
            (Some(Part::Item { .. }), None) if change.item => return Ok(()), // what is in it is looked at by itself
            (Some(Part::Item { .. }), Some("projected")) => {
                let mut inner = parts.iter().skip(at + 3).filter_map(|part| match part {
                    Part::Field(name) => Some(name.as_str()),
                    Part::Item { .. } => None,
                });
                match inner.nth(1) {
                    Some(source) => source,
                    None => return Ok(()), // defaultMode, or the sources themselves, whose content is reported besides
                }
            }
            (Some(Part::Item { .. }), Some(source)) => source,
            _ => return breach(&change.path, "Volumes", "volumes must be a list of objects with names"),
        };
        match source {
            "name" | "emptyDir" | "configMap" | "downwardAPI" => Ok(()),
            "persistentVolumeClaim" | "ephemeral" if self.permits(Permission::PersistentVolumes) => Ok(()),
            "persistentVolumeClaim" | "ephemeral" => {
                breach(&change.path, "Permission", "the record does not permit PersistentVolumes")
            }
            _ => breach(&change.path, "Volumes", "only emptyDir, configMap and downwardAPI may be added"),
        }
    }

    fn service(&self, change: &Change) -> Result<(), Breach> {
        for field in change.path.fields().skip(1) {
            match field {
                "externalIPs" | "externalName" | "clusterIP" | "clusterIPs" | "publishNotReadyAddresses" => {
                    return breach(&change.path, "Service", "where a Service leads to stays the plugin's");
                }
                "type" | "nodePort" | "healthCheckNodePort" if !self.permits(Permission::Exposure) => {
                    return breach(&change.path, "Permission", "the record does not permit Exposure");
                }
                _ if field.starts_with("loadBalancer") && !self.permits(Permission::Exposure) => {
                    return breach(&change.path, "Permission", "the record does not permit Exposure");
                }
                _ => {}
            }
        }
        if change.after.as_ref().is_some_and(|after| after == "ExternalName") {
            return breach(&change.path, "Service", "where a Service leads to stays the plugin's");
        }
        Ok(())
    }
}

fn breach<T>(path: &Path, rule: impl Into<String>, says: impl Into<String>) -> Result<T, Breach> {
    let path = if path.0.is_empty() { "the object".to_owned() } else { path.to_string() };
    Err(Breach { path, rule: rule.into(), says: says.into() })
}

/// What is in a place of an object.
fn lookup<'a>(object: &'a Value, path: &Path) -> Option<&'a Value> {
    path.0.iter().try_fold(object, |value, part| match part {
        Part::Field(name) => value.get(name),
        item @ Part::Item { .. } => {
            value.as_array()?.iter().enumerate().find(|(i, there)| item.is_item(*i, there)).map(|(_, there)| there)
        }
    })
}

/// Data of a ConfigMap: nothing in it is a field.
fn is_text_of(path: &Path, kind: &TypeMeta) -> bool {
    kind.kind == "ConfigMap" && kind.group().is_empty() && matches!(path.field_at(0), Some("data" | "binaryData"))
}

/// What of `metadata.labels` or `metadata.annotations`, of the object or of a template, is concerned.
enum Entry<'a> {
    /// The label of this name.
    Label(&'a str),
    /// The annotation of this name.
    Annotation(&'a str),
    /// A map as a whole, or something within an entry.
    Other,
}

/// With the position of `metadata`.
fn template(path: &Path) -> Option<(usize, Entry<'_>)> {
    let map = |at: usize| match (path.field_at(at), path.field_at(at + 1)) {
        (Some("metadata"), Some(map @ ("labels" | "annotations"))) => Some(map),
        _ => None,
    };
    let (at, map) = (0..path.0.len()).find_map(|at| Some((at, map(at)?)))?;
    let entry = match path.field_at(at + 2).filter(|_| path.0.len() == at + 3) {
        Some(name) if map == "labels" => Entry::Label(name),
        Some(name) => Entry::Annotation(name),
        None => Entry::Other,
    };
    Some((at, entry))
}

fn annotation(change: &Change, name: &str) -> Result<(), Breach> {
    let lower = name.to_lowercase();
    if names::is_ours(name) || lower.starts_with("helm.sh/") || lower.starts_with("meta.helm.sh/") {
        return breach(&change.path, "Identity", "annotations that the host acts upon");
    }
    let harmful = ["apparmor", "seccomp", "snippet", "unsafe-sysctls"];
    if harmful.iter().any(|part| lower.contains(part)) {
        return breach(&change.path, "Privilege", "an annotation that loosens isolation, or carries code");
    }
    Ok(())
}

fn is_container(path: &Path) -> bool {
    let parts = path.0.as_slice();
    let Some((last, rest)) = parts.split_last() else { return false };
    let list = matches!(rest.last(), Some(Part::Field(name)) if name == "containers" || name == "initContainers");
    list && matches!(last, Part::Item { .. })
}

/// In a security context: only what takes rights away.
fn tightening(change: &Change, at: usize) -> Result<(), Breach> {
    let says = "only privileged: false, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, runAsNonRoot: true, \
                capabilities.drop and seccompProfile.type: RuntimeDefault may be set";
    let inner: Vec<&str> = change.path.fields().skip(at + 1).collect();
    let is = |value: Value| change.after.as_ref() == Some(&value);
    let allowed = match inner.as_slice() {
        ["privileged" | "allowPrivilegeEscalation"] => is(Value::Bool(false)),
        ["readOnlyRootFilesystem" | "runAsNonRoot"] => is(Value::Bool(true)),
        ["capabilities", "drop"] => change.before.is_none() && change.after.as_ref().is_some_and(|a| !a.is_object()),
        ["seccompProfile", "type"] => is("RuntimeDefault".into()),
        _ => false,
    };
    if allowed { Ok(()) } else { breach(&change.path, "Privilege", says) }
}

impl Limit {
    fn read(limit: &ValueLimit) -> Result<Self, String> {
        let number = |field: &str, value: &Option<IntOrString>| match value {
            None => Ok::<_, String>(None),
            Some(value) => {
                let text = match value {
                    IntOrString::Int(number) => number.to_string(),
                    IntOrString::String(text) => text.clone(),
                };
                let parsed = quantity::parse(&text).ok_or_else(|| format!("{field}: {text:?} is no quantity"))?;
                Ok(Some((parsed, text)))
            }
        };
        if limit.min.is_none() && limit.max.is_none() && limit.values.is_empty() {
            return Err("path: needs min, max or values".into());
        }
        Ok(Self {
            kind: limit.kind.clone(),
            text: limit.path.clone(),
            pattern: Pattern::parse(&limit.path).map_err(|why| format!("path: {why}"))?,
            min: number("min", &limit.min)?,
            max: number("max", &limit.max)?,
            values: limit.values.clone(),
        })
    }

    /// Absence is within the bound: there is only a least value.
    fn is_loose(&self) -> bool {
        self.max.is_none() && self.values.is_empty()
    }

    fn rule(&self) -> String {
        format!("limit {}", self.text)
    }

    fn check(&self, change: &Change) -> Result<(), Breach> {
        let found = self.pattern.along(&change.path);
        if !found.above {
            return Ok(());
        }
        let says = self.says();
        let value = match &change.after {
            Some(value) if found.exact && !value.is_object() && !value.is_array() && !value.is_null() => value,
            None if !found.exact => return Ok(()), // what takes its place is reported by itself
            _ => return breach(&change.path, self.rule(), format!("cannot be removed; {says}")),
        };
        let text = said(value);
        if !self.values.is_empty() && !self.values.iter().any(|pattern| glob::matches(pattern, &text)) {
            return breach(&change.path, self.rule(), format!("is {text:?}; {says}"));
        }
        if self.min.is_none() && self.max.is_none() {
            return Ok(());
        }
        let Some(number) = quantity::parse(&text) else {
            return breach(&change.path, self.rule(), format!("is {text:?}, which is no number or quantity; {says}"));
        };
        let low = self.min.as_ref().is_some_and(|(min, _)| number < *min);
        let high = self.max.as_ref().is_some_and(|(max, _)| number > *max);
        if low || high { breach(&change.path, self.rule(), format!("is {text}; {says}")) } else { Ok(()) }
    }

    fn says(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.min.as_ref().map(|(_, text)| format!("at least {text}")));
        parts.extend(self.max.as_ref().map(|(_, text)| format!("at most {text}")));
        if !self.values.is_empty() {
            parts.push(format!("one of {}", self.values.join(", ")));
        }
        format!("must be {}", parts.join(" and "))
    }
}

/// Labels that selectors anywhere in an object speak of.
pub fn selected_labels(object: &Value, found: &mut BTreeSet<String>) {
    match object {
        Value::Object(fields) => {
            for (name, value) in fields {
                if matches!(name.as_str(), "selector" | "matchLabels") {
                    let plain = value.as_object().into_iter().flatten().filter(|(_, value)| value.is_string());
                    found.extend(plain.map(|(key, _)| key.clone()));
                } else if name == "matchExpressions" {
                    let keys = value.as_array().into_iter().flatten().filter_map(|e| e.get("key")?.as_str());
                    found.extend(keys.map(ToOwned::to_owned));
                }
                selected_labels(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| selected_labels(item, found)),
        _ => {}
    }
}

/// Kinds of children that no overlay changes: they are rights, isolation, or the host's own.
#[must_use]
pub fn is_closed(kind: &TypeMeta) -> bool {
    match kind.group() {
        "" => matches!(
            kind.kind.as_str(),
            "Secret"
                | "ServiceAccount"
                | "Namespace"
                | "Node"
                | "PersistentVolume"
                | "ResourceQuota"
                | "LimitRange"
                | "Endpoints"
                | "Event"
        ),
        "networking.k8s.io" => matches!(kind.kind.as_str(), "NetworkPolicy" | "IngressClass"),
        "discovery.k8s.io"
        | "rbac.authorization.k8s.io"
        | "admissionregistration.k8s.io"
        | "apiextensions.k8s.io"
        | "apiregistration.k8s.io"
        | "authentication.k8s.io"
        | "authorization.k8s.io"
        | "certificates.k8s.io"
        | "flowcontrol.apiserver.k8s.io"
        | "node.k8s.io"
        | "scheduling.k8s.io"
        | "storage.k8s.io"
        | names::GROUP => true,
        _ => false,
    }
}
