//! The OpenAPI document, of the types that requests are parsed to and answers are made of. Their schemas are schemars',
//! which the project has anyway: OpenAPI 3.1 takes JSON Schema as it is.

use http::Method;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::problem::Problem;
use super::view::{InstanceView, NewInstance, NewTemplateVersion, Page, PageQuery, TemplateVersionView, Upgrade};

/// What can be asked for.
pub struct Operation {
    /// HTTP's.
    pub method: Method,
    /// As routed.
    pub path: &'static str,
    /// In camelCase; label of metrics, too.
    pub id: &'static str,
    summary: &'static str,
    body: Option<fn(&mut SchemaGenerator) -> Value>,
    success: (u16, &'static str, fn(&mut SchemaGenerator) -> Value),
    is_list: bool,
}

/// All of them.
pub const OPERATIONS: [Operation; 8] = [
    Operation {
        method: Method::GET,
        path: "/template-versions",
        id: "listTemplateVersions",
        summary: "List template versions. Administrators only.",
        body: None,
        success: (200, "A page.", schema::<Page<TemplateVersionView>>),
        is_list: true,
    },
    Operation {
        method: Method::POST,
        path: "/template-versions",
        id: "createTemplateVersion",
        summary: "Add a template version, which never changes afterwards. Administrators only.",
        body: Some(schema::<NewTemplateVersion>),
        success: (201, "It is there.", schema::<TemplateVersionView>),
        is_list: false,
    },
    Operation {
        method: Method::GET,
        path: "/template-versions/{id}",
        id: "getTemplateVersion",
        summary: "Show a template version. Administrators only.",
        body: None,
        success: (200, "The template version.", schema::<TemplateVersionView>),
        is_list: false,
    },
    Operation {
        method: Method::GET,
        path: "/instances",
        id: "listInstances",
        summary: "List one's own instances; administrators see all.",
        body: None,
        success: (200, "A page.", schema::<Page<InstanceView>>),
        is_list: true,
    },
    Operation {
        method: Method::POST,
        path: "/instances",
        id: "createInstance",
        summary: "Order an instance.",
        body: Some(schema::<NewInstance>),
        success: (201, "It is ordered: its status says how far it is.", schema::<InstanceView>),
        is_list: false,
    },
    Operation {
        method: Method::GET,
        path: "/instances/{id}",
        id: "getInstance",
        summary: "Show an instance.",
        body: None,
        success: (200, "The instance.", schema::<InstanceView>),
        is_list: false,
    },
    Operation {
        method: Method::DELETE,
        path: "/instances/{id}",
        id: "deleteInstance",
        summary: "Delete an instance. It is shown until nothing of it is left.",
        body: None,
        success: (202, "It is being deleted.", schema::<InstanceView>),
        is_list: false,
    },
    Operation {
        method: Method::POST,
        path: "/instances/{id}/upgrade",
        id: "upgradeInstance",
        summary: "Take an instance to another template version, or to other values.",
        body: Some(schema::<Upgrade>),
        success: (202, "It is ordered: its status says how far it is.", schema::<InstanceView>),
        is_list: false,
    },
];

fn schema<T: schemars::JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().into()
}

/// The whole document.
#[must_use]
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for operation in &OPERATIONS {
        let described = describe(operation, &mut generator);
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(operation.method.as_str().to_lowercase(), described);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Transom catalog",
            "description": "Orders instances of products and keeps what was ordered.",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "security": [{ "bearer": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "schemas": generator.take_definitions(true),
        },
    })
}

fn describe(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let (code, description, answer) = operation.success;
    let mut parameters: Vec<Value> = Vec::new();
    if operation.path.contains("{id}") {
        let schema = json!({ "type": "string", "format": "uuid" });
        parameters.push(json!({ "name": "id", "in": "path", "required": true, "schema": schema }));
    }
    if operation.method == Method::POST {
        let text = "The same key and the same body give the same answer, and are carried out once. Kept for two days.";
        let schema = json!({ "type": "string", "maxLength": 255 });
        parameters.push(json!({ "name": "Idempotency-Key", "in": "header", "description": text, "schema": schema }));
    }
    if operation.is_list {
        let query = schemars::SchemaGenerator::from(generator.settings().clone()).into_root_schema_for::<PageQuery>();
        let properties = query.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        let query = |(name, schema)| json!({ "name": name, "in": "query", "schema": schema });
        parameters.extend(properties.into_iter().map(query));
    }
    let problem = schema::<Problem>(generator);
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {
            code.to_string(): {
                "description": description,
                "content": { "application/json": { "schema": answer(generator) } },
            },
            "default": {
                "description": "Why not, and what to do.",
                "content": { "application/problem+json": { "schema": problem } },
            },
        },
    });
    if let (Some(body), Some(described)) = (operation.body, described.as_object_mut()) {
        let content = json!({ "application/json": { "schema": body(generator) } });
        described.insert("requestBody".into(), json!({ "required": true, "content": content }));
    }
    described
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, inner)| match inner.as_str() {
                Some(reference) if key == "$ref" => found.push(reference),
                _ => references(inner, found),
            }),
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn the_document_is_whole() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference} is not there");
        }
        let ids: std::collections::BTreeSet<_> = OPERATIONS.iter().map(|operation| operation.id).collect();
        assert_eq!(ids.len(), OPERATIONS.len());
        let instance = &document["components"]["schemas"]["InstanceView"];
        assert!(instance["properties"].get("secrets").is_none());
        assert_eq!(instance["properties"]["id"]["format"], "uuid");
        let parameters = &document["paths"]["/instances"]["get"]["parameters"];
        assert_eq!(parameters[0]["name"], "after");
        assert_eq!(parameters[1]["schema"]["maximum"], 200);
    }
}
