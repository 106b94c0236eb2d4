//! Keys that are exchanged (I6).

use serde_json::json;
use transom_catalog::seal::new_line;

use crate::support::ALICE;
use crate::{World, id, order, with};

#[tokio::test]
async fn after_a_rotation_the_old_key_can_go() {
    let mut world = World::new("rotation").await;
    let template = world.template().await;
    let new = with(order(&template), json!({ "secrets": { "password": "hunter2" } }));
    let made = world.service.http.once("/instances", ALICE, "order-1", &new).await.expect(201);
    let name = made.id();
    world.ns.instance(&name, |_| true).await;

    let file = world.service.keys_file();
    let old = std::fs::read_to_string(&file).unwrap();
    let second = new_line("second").unwrap().to_string();
    std::fs::write(&file, &second).unwrap();
    let lost = world.service.run("rotate");
    assert!(!lost.status.success());
    let said = String::from_utf8_lossy(&lost.stderr).into_owned();
    assert!(said.contains("the key first") && said.contains(&name), "{said}");

    std::fs::write(&file, format!("{second}\n{old}\n")).unwrap();
    for expected in ["sealed 2 secrets under the key second\n", "sealed 0 secrets under the key second\n"] {
        let rotated = world.service.run("rotate");
        assert_eq!(String::from_utf8_lossy(&rotated.stdout), expected, "{rotated:?}");
    }
    assert!(world.service.stop().await.success());
    std::fs::write(&file, &second).unwrap();
    world.service.resume();
    world.service.wait_until_ready().await;

    let shown = world.service.http.get(&format!("/instances/{name}"), ALICE).await.expect(200).body;
    assert_eq!(shown["generation"], 1, "nothing else is wanted of it");
    let again = world.service.http.once("/instances", ALICE, "order-1", &new).await.expect(201);
    assert_eq!(again.id(), name, "the request is still known");
    let secret = format!("{name}-values-1");
    world.ns.secrets().delete(&secret, &kube::api::DeleteParams::default()).await.unwrap();
    crate::support::until("the Secret is written again", async || {
        let secret = world.ns.secrets().get_opt(&secret).await.unwrap()?;
        (secret.data?["values.json"].0 == br#"{"password":"hunter2"}"#).then_some(())
    })
    .await;
    // a text that is put into another row does not open
    let other = with(order(&template), json!({ "secrets": { "password": "other" } }));
    let other = world.service.http.post("/instances", ALICE, &other).await.expect(201).id();
    let steal = "UPDATE deployment_instance SET generation = generation + 1,
        secrets = (SELECT secrets FROM deployment_instance WHERE id = $2) WHERE id = $1";
    world.sql().await.execute(steal, &[&id(&other), &id(&name)]).await.unwrap();
    crate::support::until("it is said", async || {
        world.service.log().contains("it is damaged or belongs to another row").then_some(())
    })
    .await;
}
