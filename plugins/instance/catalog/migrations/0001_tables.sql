-- Which catalog this is. Objects in the cluster carry it as a label, so that a catalog with another database, an empty
-- one for instance, never takes them for leftovers of its own.
CREATE TABLE catalog (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    id uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO catalog DEFAULT VALUES;

-- Never changed and never deleted: an upgrade is another row.
CREATE TABLE product_template_version (
    id uuid PRIMARY KEY,
    -- Where the chart is and what it is, as the custom resource has it:
    -- {"oci"|"http"|"folder": {"endpoint": …, "reference": …}, "digest": "sha256:…"}.
    chart jsonb NOT NULL,
    default_values jsonb NOT NULL DEFAULT '{}',
    domain_paths text[] NOT NULL DEFAULT '{}',
    timeout_seconds integer,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE deployment_instance (
    id uuid PRIMARY KEY,
    user_id text NOT NULL CHECK (user_id <> ''),
    product_template_version_id uuid NOT NULL
        CONSTRAINT deployment_instance_template REFERENCES product_template_version (id),
    namespace text NOT NULL,
    domain_name text NOT NULL,
    -- Over the template version's default values.
    overrides jsonb NOT NULL DEFAULT '{}',
    -- JSON over those, sealed for this row (see seal.rs).
    secrets bytea,
    -- The generation that the secrets are of: their Secret is named by it.
    secrets_generation bigint NOT NULL DEFAULT 1,
    -- Counts changes of what is wanted; a status is taken for this generation only.
    generation bigint NOT NULL DEFAULT 1,
    status text NOT NULL DEFAULT 'Pending' CHECK (status IN ('Pending', 'Running', 'Failed', 'Upgrading')),
    message text NOT NULL DEFAULT '',
    release_revision bigint,
    last_reconcile timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- Somebody wants it gone.
    deleted_at timestamptz,
    -- Nothing of it is in the cluster any more: from here on the row is a tombstone.
    gone_at timestamptz,
    CHECK (gone_at IS NULL OR deleted_at IS NOT NULL)
);
CREATE UNIQUE INDEX deployment_instance_namespace ON deployment_instance (namespace) WHERE gone_at IS NULL;
CREATE UNIQUE INDEX deployment_instance_domain_name ON deployment_instance (domain_name) WHERE gone_at IS NULL;
CREATE INDEX deployment_instance_user ON deployment_instance (user_id, id) WHERE gone_at IS NULL;

-- Answers to requests with the header Idempotency-Key.
CREATE TABLE idempotency_key (
    user_id text NOT NULL,
    key text NOT NULL,
    -- SHA-256 of the request, sealed: a plain digest would let guesses at its secrets be tried.
    request bytea NOT NULL,
    status smallint NOT NULL,
    body jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, key)
);
CREATE INDEX idempotency_key_created ON idempotency_key (created_at);
