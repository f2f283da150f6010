-- A migration changes its status at almost every step. While the status, or the time of the last change, is part of an
-- index or of an index's predicate, each of these updates writes into every index of the table. What the indexes ask
-- is put into columns of its own that change twice in the life of a migration.

DROP INDEX migration_waiting;
DROP INDEX migration_one_active;
ALTER TABLE migration
    ADD COLUMN active boolean NOT NULL GENERATED ALWAYS AS (status IN ('accepted', 'preparing', 'running',
        'running (post-copy)', 'pre-migrating', 'migrating', 'post-migrating', 'finished', 'confirming',
        'reverting')) STORED,
    -- An evacuation that is done but for its lost host.
    ADD COLUMN awaits_source boolean NOT NULL GENERATED ALWAYS AS (status = 'done') STORED;
CREATE UNIQUE INDEX migration_one_active ON migration (instance_id) WHERE active;
CREATE INDEX migration_awaits_source ON migration (source_compute) WHERE awaits_source;
