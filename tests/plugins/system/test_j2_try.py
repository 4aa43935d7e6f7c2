from tests.kernel.jobs.conftest import _working
def test_x(serve):
    c = serve(plugins=["system","trace","club"])
    print(c.post("/api/v1/jobs/", json={"name":"club.refresh"}).content)
    with _working(c.service):
        c.service.shared.jobs.wait(1, 10)
    print(c.get("/api/v1/jobs/").content)
    print(c.get("/api/v1/jobs/1/").content)
    print(c.get("/api/v1/jobs/1/events/").content.decode())
    print(c.get("/api/v1/jobs/catalog/").content)
    assert 0
