DROP TABLE config_drive;
ALTER TABLE instance DROP COLUMN has_config_drive;
