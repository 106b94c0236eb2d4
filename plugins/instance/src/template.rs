//! `ProductTemplateVersion`: is the chart there, and is it the one that is meant?

use transom_sdk::Stop;
use transom_sdk::prelude::*;

use crate::InstancePlugin;
use crate::chart;
use crate::spec::{ProductTemplateVersion, ProductTemplateVersionStatus};

impl Reconcile<ProductTemplateVersion> for InstancePlugin {
    fn reconcile(template: &ProductTemplateVersion, cx: &Context) -> Result<Plan, Failure> {
        let mut plan = cx.plan();
        if cx.deleting() {
            plan.finalized();
            return Ok(plan);
        }
        match Stop::settle(chart::fetch(cx, &template.spec.chart, None, "spec.chart"))? {
            Ok(fetched) => {
                let digest = Some(fetched.digest);
                plan.status(&ProductTemplateVersionStatus { chart: chart::about(&fetched.chart), digest });
                plan.condition(Condition::new("Ready", true, "ChartFetched", "the chart is there"));
            }
            Err(problem) => {
                plan.status(&ProductTemplateVersionStatus::default());
                plan.condition(Condition::new("Ready", false, problem.reason, problem.message));
            }
        }
        Ok(plan)
    }
}
