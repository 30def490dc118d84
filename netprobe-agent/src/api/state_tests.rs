//! What is said of destinations, of the agent's own targets, and of its health.

use super::*;

#[test]
fn destinations_and_targets_have_states() {
    let api = start("resilience", Pipeline::Answers { flows: 0 });
    let mut event = fixture::flow();
    event.flow = Some(Flow {
        close_reason: Some(CloseReason::Refused),
        ..Flow::new(FlowState::Failed)
    });
    for _ in 0..3 {
        api.metrics.consume(&event);
    }
    let json = api.get("/resilience/state").json();
    assert_eq!(
        (&json["api_version"], &json["run"]),
        (&"v1".into(), &(*event.run).into())
    );
    let destination = &json["destinations"][0];
    assert_eq!(destination["peer"], "10.0.0.100:80");
    assert_eq!(destination["state"], "failing");
    assert_eq!(destination["evidence"]["refused"], 3);
    assert_eq!(json["targets"][0]["target"], "recent");
    assert_eq!(json["targets"][0]["circuit"], Value::Null);
    let json = api.get("/metrics/network").json();
    assert_eq!(
        (&json["api_version"], &json["complete"]),
        (&"v1".into(), &true.into())
    );
    let pair = &json["pairs"][0];
    assert_eq!(
        (&pair["peer"], &pair["role"]),
        (&"10.0.0.100:80".into(), &"client".into())
    );
    let names: Vec<_> = pair["windows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| &of["window"])
        .collect();
    assert_eq!(names, ["10s", "1m", "5m"]);
    let minute = &pair["windows"][1];
    assert_eq!(minute["traffic"]["errors"]["refused"], 3);
    assert_eq!(minute["traffic"]["error_ratio"], 1.0);
    assert_eq!(minute["connect"], Value::Null);
    assert_eq!(json["saturation"]["tables"][0]["table"], "flow_table");
    // What is shed is said, not shown as nothing.
    api.metrics.keep_detail(false);
    assert_eq!(api.get("/metrics/network").json()["pairs"], Value::Array(vec![]));
}

#[test]
fn health_says_what_decides_it() {
    for (pipeline, live, ready) in [
        (Pipeline::Answers { flows: 0 }, 200, 200),
        (Pipeline::MissesARequiredFact, 200, 503),
        (Pipeline::IsStuck, 200, 503),
        (Pipeline::HasEnded, 503, 503),
    ] {
        let api = start("health", pipeline);
        // Ready first: the pipeline that has ended ends at the first question.
        let answer = api.get("/health/ready");
        assert_eq!(answer.status, ready);
        let json = answer.json();
        assert_eq!(json["status"], if ready == 200 { "pass" } else { "fail" });
        assert_eq!(json["api_version"], "v1");
        assert!(!json["checks"].as_array().unwrap().is_empty());
        assert_eq!(api.get("/health/live").status, live);
    }
}

#[test]
fn a_pipeline_that_does_not_answer_is_a_problem() {
    let api = start("stuck", Pipeline::IsStuck);
    for path in ["/metrics", "/api/v1/flows", "/api/v1/probe"] {
        assert_eq!(api.problem(path, 503), "the pipeline did not answer within 2 s");
    }
}
