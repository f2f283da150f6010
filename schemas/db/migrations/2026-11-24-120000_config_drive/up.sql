-- What guests are told of themselves. In a table of its own: it is large, and only hosts are told of it.

ALTER TABLE instance ADD COLUMN has_config_drive boolean NOT NULL DEFAULT false;
CREATE TABLE config_drive (
    instance_id uuid PRIMARY KEY REFERENCES instance (id) ON DELETE CASCADE,
    -- As it was when the server was asked for.
    content     jsonb NOT NULL
);
