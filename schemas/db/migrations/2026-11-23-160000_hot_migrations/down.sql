DROP INDEX migration_awaits_source;
DROP INDEX migration_one_active;
ALTER TABLE migration DROP COLUMN awaits_source, DROP COLUMN active;
CREATE UNIQUE INDEX migration_one_active ON migration (instance_id)
    WHERE status IN ('accepted', 'preparing', 'running', 'running (post-copy)', 'pre-migrating', 'migrating',
                     'post-migrating', 'finished', 'confirming', 'reverting');
CREATE INDEX migration_waiting ON migration (status, updated_at) WHERE status IN ('finished', 'done');
