//! What a QEMU can do, from its own schema (`query-qmp-schema`, `docs/devel/qapi-code-gen.rst` of QEMU).

use serde_json::Value;

/// How the content of an instant is kept while the guest writes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A filter above the disk copies what the guest is about to overwrite (`copy-before-write`), and gives the snapshot up rather than
    /// fail the guest's write; `snapshot-access` reads.
    Filter,
    /// A job does the same (`blockdev-backup` with `sync=none`). When its scratch file is full, the guest's write fails: so the file has
    /// all its room from the beginning.
    Job,
}

fn entity<'a>(schema: &'a [Value], name: &Value) -> Option<&'a Value> {
    schema.iter().find(|one| one["name"] == *name)
}

/// The members of an option of `blockdev-add` for a driver.
fn driver_members<'a>(schema: &'a [Value], driver: &str) -> Option<Vec<&'a str>> {
    let command = entity(schema, &Value::from("blockdev-add"))?;
    let options = entity(schema, command.get("arg-type")?)?;
    let mut variants = options.get("variants")?.as_array()?.iter();
    let variant = variants.find(|variant| variant["case"] == driver)?;
    let members = entity(schema, variant.get("type")?)?.get("members")?;
    let members = members.as_array()?.iter();
    Some(
        members
            .filter_map(|member| member["name"].as_str())
            .collect(),
    )
}

impl Way {
    /// The best way of a QEMU with this schema; `None` when it has none.
    ///
    /// # Why
    /// QEMU 7.2 to 9.1 have the filter, but `snapshot-access` there was seen to return the disk's later content (`hbitmap_status()` of 7.2
    /// ends with the wrong value). `min-cluster-size` came after that was mended.
    #[must_use]
    pub fn of(schema: &Value) -> Option<Self> {
        let schema = schema.as_array()?;
        let filter = driver_members(schema, "copy-before-write").unwrap_or_default();
        let needed = ["on-cbw-error", "cbw-timeout", "min-cluster-size"];
        let has_view = driver_members(schema, "snapshot-access").is_some();
        if has_view && needed.iter().all(|name| filter.contains(name)) {
            return Some(Self::Filter);
        }
        entity(schema, &Value::from("blockdev-backup")).map(|_| Self::Job)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::Way;

    fn schema(filter: &[&str], has_view: bool, has_job: bool) -> Value {
        let members: Vec<Value> = filter.iter().map(|name| json!({"name": name})).collect();
        let mut variants = vec![json!({"case": "copy-before-write", "type": "2"})];
        if has_view {
            variants.push(json!({"case": "snapshot-access", "type": "3"}));
        }
        let mut all = vec![
            json!({"name": "blockdev-add", "meta-type": "command", "arg-type": "1"}),
            json!({"name": "1", "meta-type": "object", "variants": variants}),
            json!({"name": "2", "meta-type": "object", "members": members}),
            json!({"name": "3", "meta-type": "object", "members": [{"name": "file"}]}),
        ];
        if has_job {
            all.push(json!({"name": "blockdev-backup", "meta-type": "command"}));
        }
        Value::from(all)
    }

    #[test]
    fn the_schema_decides_the_way() {
        let new = [
            "file",
            "target",
            "on-cbw-error",
            "cbw-timeout",
            "min-cluster-size",
        ];
        assert_eq!(Way::of(&schema(&new, true, true)), Some(Way::Filter));
        assert_eq!(Way::of(&schema(&new[..4], true, true)), Some(Way::Job));
        assert_eq!(Way::of(&schema(&new, false, true)), Some(Way::Job));
        assert_eq!(Way::of(&schema(&new[..1], false, false)), None);
        for nonsense in [json!([]), json!({}), json!([{"name": "blockdev-add"}])] {
            assert_eq!(Way::of(&nonsense), None, "{nonsense}");
        }
    }
}
