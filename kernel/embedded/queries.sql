-- name: find_role
SELECT FROM pg_roles WHERE rolname = %(name)s

-- name: create_role
CREATE ROLE {name} LOGIN CREATEDB

-- name: find_database
SELECT FROM pg_database WHERE datname = %(name)s

-- name: create_database
CREATE DATABASE {name} OWNER {name}
