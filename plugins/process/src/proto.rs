//! Messages as they go over the wire, kept by hand: of Temporal's API only the fields that are used here. Names of
//! messages are not on the wire, and unknown fields are skipped.

/// `proto/transformation.proto`
pub mod transformation {
    /// The only method.
    pub const GET_PROCESS_DEFINITION: &str = "/ameide.transformation.v1.TransformationService/GetProcessDefinition";

    /// Asks for a definition.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct GetProcessDefinitionRequest {
        /// Of the definition.
        #[prost(string, tag = "1")]
        pub id: String,
        /// Whose it is.
        #[prost(string, tag = "2")]
        pub tenant_id: String,
    }

    /// A definition.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct GetProcessDefinitionResponse {
        /// Always there.
        #[prost(message, optional, tag = "1")]
        pub definition: Option<ProcessDefinition>,
    }

    /// What workers execute.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct ProcessDefinition {
        /// As it was asked for.
        #[prost(string, tag = "1")]
        pub id: String,
        /// As it was asked for.
        #[prost(string, tag = "2")]
        pub tenant_id: String,
        /// At least 1.
        #[prost(int64, tag = "3")]
        pub version: i64,
        /// A JSON object.
        #[prost(string, tag = "4")]
        pub content: String,
    }
}

/// `temporalio/api: temporal/api/workflowservice/v1/request_response.proto` and what it imports.
pub mod temporal {
    /// The path of a method of Temporal's service.
    macro_rules! method {
        ($name:literal) => {
            concat!("/temporal.api.workflowservice.v1.WorkflowService/", $name)
        };
    }

    /// Is there such a namespace?
    pub const DESCRIBE_NAMESPACE: &str = method!("DescribeNamespace");
    /// How many workflows match?
    pub const COUNT: &str = method!("CountWorkflowExecutions");
    /// Which ones?
    pub const LIST: &str = method!("ListWorkflowExecutions");
    /// How did this one come to be?
    pub const DESCRIBE: &str = method!("DescribeWorkflowExecution");
    /// Ends one.
    pub const TERMINATE: &str = method!("TerminateWorkflowExecution");
    /// Cancels or terminates all that match.
    pub const START_BATCH: &str = method!("StartBatchOperation");
    /// `grpc/grpc: src/proto/grpc/health/v1/health.proto`
    pub const HEALTH: &str = "/grpc.health.v1.Health/Check";
    /// What is asked about there.
    pub const SERVICE: &str = "temporal.api.workflowservice.v1.WorkflowService";
    /// In a health answer.
    pub const SERVING: i32 = 1;
    /// State of a namespace that is deleted, but still there (`temporal/api/enums/v1/namespace.proto`).
    pub const DELETED: i32 = 3;

    /// Asks after a service.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct HealthCheckRequest {
        /// As [`SERVICE`].
        #[prost(string, tag = "1")]
        pub service: String,
    }

    /// How it is.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct HealthCheckResponse {
        /// [`SERVING`], or something else.
        #[prost(int32, tag = "1")]
        pub status: i32,
    }

    /// Asks for a namespace.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct DescribeNamespaceRequest {
        /// Its name.
        #[prost(string, tag = "1")]
        pub namespace: String,
    }

    /// A namespace.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct DescribeNamespaceResponse {
        /// Always there.
        #[prost(message, optional, tag = "1")]
        pub namespace_info: Option<NamespaceInfo>,
    }

    /// Of a namespace, as far as it matters here.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct NamespaceInfo {
        /// As it was asked for.
        #[prost(string, tag = "1")]
        pub name: String,
        /// [`DELETED`], or something else.
        #[prost(int32, tag = "2")]
        pub state: i32,
    }

    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(crate) struct CountRequest {
        #[prost(string, tag = "1")]
        pub namespace: String,
        #[prost(string, tag = "2")]
        pub query: String,
    }

    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(crate) struct CountResponse {
        #[prost(int64, tag = "1")]
        pub count: i64,
    }

    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(crate) struct ListRequest {
        #[prost(string, tag = "1")]
        pub namespace: String,
        #[prost(int32, tag = "2")]
        pub page_size: i32,
        #[prost(string, tag = "4")]
        pub query: String,
    }

    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(crate) struct ListResponse {
        #[prost(message, repeated, tag = "1")]
        pub executions: Vec<ExecutionInfo>,
    }

    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(crate) struct ExecutionInfo {
        #[prost(message, optional, tag = "1")]
        pub execution: Option<Execution>,
        /// Of the workflow that started this one.
        #[prost(message, optional, tag = "8")]
        pub parent_execution: Option<Execution>,
        /// Of the chain that retries and continue-as-new make; empty in lists.
        #[prost(string, tag = "21")]
        pub first_run_id: String,
    }

    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(crate) struct Execution {
        #[prost(string, tag = "1")]
        pub workflow_id: String,
        #[prost(string, tag = "2")]
        pub run_id: String,
    }

    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(crate) struct DescribeRequest {
        #[prost(string, tag = "1")]
        pub namespace: String,
        #[prost(message, optional, tag = "2")]
        pub execution: Option<Execution>,
    }

    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(crate) struct DescribeResponse {
        #[prost(message, optional, tag = "2")]
        pub workflow_execution_info: Option<ExecutionInfo>,
    }

    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(crate) struct TerminateRequest {
        #[prost(string, tag = "1")]
        pub namespace: String,
        #[prost(message, optional, tag = "2")]
        pub workflow_execution: Option<Execution>,
        #[prost(string, tag = "3")]
        pub reason: String,
        #[prost(string, tag = "5")]
        pub identity: String,
    }

    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(crate) struct StartBatchRequest {
        #[prost(string, tag = "1")]
        pub namespace: String,
        #[prost(string, tag = "2")]
        pub visibility_query: String,
        /// The same job is not started twice.
        #[prost(string, tag = "3")]
        pub job_id: String,
        #[prost(string, tag = "4")]
        pub reason: String,
        /// One of these two.
        #[prost(message, optional, tag = "10")]
        pub termination_operation: Option<Termination>,
        #[prost(message, optional, tag = "12")]
        pub cancellation_operation: Option<Cancellation>,
    }

    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(crate) struct Termination {
        #[prost(string, tag = "2")]
        pub identity: String,
    }

    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(crate) struct Cancellation {
        #[prost(string, tag = "1")]
        pub identity: String,
    }
}
