import asyncio,time,pytest,sys
sys.path.insert(0,"/work/main")
from tests.unit.agents.test_enrich import *
from tests.unit.agents import test_answer as A
from tests.unit.agents.test_answer import narrow, answerer, enricher, publisher

async def test_strict_follower(enricher_of, cache):
    cache.put(PLAIN.key, kept(age=100, fresh=False))
    gate=asyncio.Event()
    class F(FakeClient):
        async def fetch(self,*a,**k):
            await super().fetch(*a,**k); raise Unreachable("gone")
    c=F(gate); e=enricher_of(c)
    l=asyncio.create_task(e.answer(PLAIN,{})); await c.until(1)
    f=asyncio.create_task(e.answer(wanted(max_age=10.0),{})); await settle()
    gate.set()
    assert (await l).cache==b"stale"
    assert (await f).error is not None

async def test_bug_is_bug(enricher_of):
    with pytest.raises(TypeError):
        print(said(await enricher_of(FakeClient(TypeError("a bug"))).answer(PLAIN,{})))

async def test_checks_cancelled(enricher_of, pool):
    pool.stuck=True
    await enricher_of(FakeClient(b"7")).answer(wanted(checks=(Call("is_prime"),)*3, timeout=0.01),{})
    assert [f.cancelled() for f in pool.futures]==[True]*3

async def test_unstarted(narrow, enricher, publisher):
    for _ in range(2):
        b=A.batch_of(A.record(0),A.record(1))
        await narrow.take(b); b.lease.revoke()
        await settle()
    await asyncio.wait_for(narrow.take(A.batch_of(A.record(0))),1)

async def test_attempts_of_plugin_doc(enricher_of, monkeypatch):
    class Deep(Schema):
        def load(self, *_): return 1
        def dump(self, *_):
            v=1
            for _ in range(80): v=[v]
            return v
    monkeypatch.setattr(documents,"_REGISTRY",{"deep":Deep}); monkeypatch.setattr(documents,"_INSTANCES",{"deep":Deep()})
    e=await enricher_of(FakeClient(b"{}")).answer(wanted(schema="deep"),{})
    from models.result import read_result, splice
    read_result(splice(b'"a"',e.shared,b"miss",None,0))
async def test_recursion(enricher_of, monkeypatch):
    class Deep(Schema):
        def load(self, *_): return 1
        def dump(self, *_):
            v=1
            for _ in range(5000): v=[v]
            return v
    monkeypatch.setattr(documents,"_REGISTRY",{"deep":Deep}); monkeypatch.setattr(documents,"_INSTANCES",{"deep":Deep()})
    e=await enricher_of(FakeClient(b"{}")).answer(wanted(schema="deep"),{})
    assert said(e)["outcome"]=="invalid_document"
def test_len():
    from models.errors import InvalidDocument
    assert len(str(InvalidDocument("\ud800"*500)))<=500
