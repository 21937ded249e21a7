import asyncio, json, os
import grpc, httpx, pytest
from finalbell.v1 import session_pb2, session_pb2_grpc, content_pb2
from joserfc.jwk import RSAKey, ECKey, OKPKey
from tests.gateway.conftest import *
def show(t, r): print(f"\n## {t}: {r.status_code} {dict(r.headers)} {r.content[:300]!r}")
async def test_probe(edge, services):
    r=edge.rest
    web={"content-type":"application/grpc-web+proto","x-grpc-web":"1"}
    show("web notoken", await edge.anonymous.post("/finalbell.v1.SessionService/GetSession", content=b"", headers=web))
    async def remain(req, ctx):
        print("   time remaining", ctx.time_remaining(), req); return session_pb2.GetSessionResponse()
    services.replies["GetSession"]=remain
    show("get", await r.get("/api/v1/sessions/x"))
    print(services.seen[-1].metadata)
    await session_pb2_grpc.SessionServiceStub(edge.channel).GetSession(session_pb2.GetSessionRequest(), metadata=edge.metadata)
    async def paper(req, ctx):
        return content_pb2.GetPaperResponse(paper=content_pb2.Paper(questions=[content_pb2.Question(stem="x"*3000) for _ in range(1200)]))
    services.replies["GetPaper"]=paper
    import time
    t=time.perf_counter(); x=await r.get("/api/v1/exams/e/paper"); print("paper", x.status_code, len(x.content), x.content[:100], time.perf_counter()-t)
    old=edge.tokens.sign(); old2=edge.tokens.sign(sub="fresh")
    show("old cached", await edge.anonymous.get("/api/v1/exams", headers={"authorization":"Bearer "+old}))
    new=RSAKey.generate_key(2048, {"kid":"k2","use":"sig","alg":"RS256"}); ec=ECKey.generate_key("P-256",{"kid":"e"}); ed=OKPKey.generate_key("Ed25519",{"kid":"d","alg":"EdDSA"})
    tmp=edge.jwks.with_suffix(".new"); tmp.write_text(edge.tokens.jwks(new,ec,ed)); tmp.rename(edge.jwks)
    for i in range(20):
        x=await edge.anonymous.get("/api/v1/exams", headers={"authorization":"Bearer "+edge.tokens.sign(key=new,header={"kid":"k2"})})
        print(i,x.status_code); 
        if x.status_code==200: break
        await asyncio.sleep(.05)
    show("old cached", await edge.anonymous.get("/api/v1/exams", headers={"authorization":"Bearer "+old}))
    show("old uncached", await edge.anonymous.get("/api/v1/exams", headers={"authorization":"Bearer "+old2}))
    from joserfc import jwt
    for alg,k in (("ES256",ec),("EdDSA",ed)):
        t=jwt.encode({"alg":alg,"kid":k.kid},{"iss":ISSUER,"aud":AUDIENCE,"sub":"s","exp":2e9},k,algorithms=[alg])
        show(alg, await edge.anonymous.get("/api/v1/exams", headers={"authorization":"Bearer "+t}))
    tmp.write_text("garbage"); tmp.rename(edge.jwks); await asyncio.sleep(.3)
    show("after garbage", await edge.anonymous.get("/api/v1/exams", headers={"authorization":"Bearer "+edge.tokens.sign(key=new,header={"kid":"k2"})}))
    tmp.write_text(edge.tokens.jwks()); tmp.rename(edge.jwks); await asyncio.sleep(.3)
    show("back", await r.get("/api/v1/exams"))
    show("dup auth", await edge.anonymous.get("/api/v1/exams", headers=[("authorization","Bearer "+edge.tokens.sign()),("authorization","Bearer x")]))
    print(services.seen[-1].metadata.get("authorization","")[-30:])
    for t in ("bearer ","BEARER ","Bearer  ",""):
        x=await edge.anonymous.get("/api/v1/exams", headers={"authorization":t+edge.tokens.sign()}); print(repr(t),x.status_code)
    for c in ({"sub":None},{"sub":"x"*5000},{"nbf":2e9},{"exp":None},{"exp":"2000000000"},{"aud":None},{"aud":["a","finalbell"]},{"iss":None}):
        x=await edge.anonymous.get("/api/v1/exams", headers={"authorization":"Bearer "+edge.tokens.sign(**c)}); print(str(c)[:50],x.status_code)
    show("upgrade", await r.get("/api/v1/exams", headers={"connection":"upgrade","upgrade":"websocket"}))
    async def dead(req, ctx): 
        raise RuntimeError("secret")
    services.replies["GetSession"]=dead
    show("raise", await r.get("/api/v1/sessions/x"))
    await asyncio.sleep(.2)
    print((edge.access_log.parent/"envoy.log").read_text()); print(edge.access_log.read_text())
