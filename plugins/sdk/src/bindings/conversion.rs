wit_bindgen::generate!({
    path: "../../wit",
    world: "conversion-only",
    with: { "transom:plugin/types@0.1.0": crate::bindings::transom::plugin::types },
    additional_derives: [PartialEq, Clone],
    export_macro_name: "export_conversion",
    pub_export_macro: true,
});
