-- From which time of events on an event_id is one of its service. Before, it was one of all services, and ids of events
-- were derived without the service: those of earlier times still are, so that an event that is sent again is still found.
-- Events may be a day ahead, and processes of the previous version may run for another day.
CREATE TABLE observability.event_id_services (from_time timestamptz NOT NULL);
INSERT INTO observability.event_id_services
SELECT CASE WHEN EXISTS (SELECT FROM observability.event) THEN now() + interval '2 days' ELSE '1970-01-01 00:00Z' END;
