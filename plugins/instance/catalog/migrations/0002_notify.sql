-- What is wanted has changed, by whatever client: count it. The API counts changes of secrets itself, because they are
-- sealed anew, without a change, when keys rotate.
CREATE FUNCTION deployment_instance_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.generation = OLD.generation AND
        (NEW.user_id, NEW.product_template_version_id, NEW.namespace, NEW.domain_name, NEW.overrides) IS DISTINCT FROM
        (OLD.user_id, OLD.product_template_version_id, OLD.namespace, OLD.domain_name, OLD.overrides)
    THEN
        NEW.generation := OLD.generation + 1;
    END IF;
    IF NEW.generation <> OLD.generation THEN
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER changed BEFORE UPDATE ON deployment_instance
    FOR EACH ROW EXECUTE FUNCTION deployment_instance_changed();

-- The mirror listens. A notification is sent when the transaction commits, never before.
CREATE FUNCTION catalog_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('transom_catalog', TG_ARGV[0] || ':' || CASE TG_OP WHEN 'DELETE' THEN OLD.id ELSE NEW.id END);
    RETURN NULL;
END
$$;
CREATE TRIGGER notify_made AFTER INSERT OR DELETE ON deployment_instance
    FOR EACH ROW EXECUTE FUNCTION catalog_notify('instance');
-- Not of a status: the mirror writes those itself.
CREATE TRIGGER notify_changed AFTER UPDATE ON deployment_instance
    FOR EACH ROW WHEN (
        OLD.generation IS DISTINCT FROM NEW.generation
        OR OLD.deleted_at IS DISTINCT FROM NEW.deleted_at
        OR OLD.gone_at IS DISTINCT FROM NEW.gone_at
    )
    EXECUTE FUNCTION catalog_notify('instance');
CREATE TRIGGER notify AFTER INSERT OR UPDATE OR DELETE ON product_template_version
    FOR EACH ROW EXECUTE FUNCTION catalog_notify('template');
