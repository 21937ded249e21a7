import asyncio
from joserfc.jwk import RSAKey
from tests.gateway.conftest import *
async def test_probe(edge, services):
    new=RSAKey.generate_key(2048, {"kid":"k2","use":"sig","alg":"RS256"})
    tmp=edge.jwks.with_suffix(".new"); tmp.write_text(edge.tokens.jwks(new)); tmp.rename(edge.jwks)
    for i in range(20):
        x=await edge.anonymous.get("/api/v1/exams", headers={"authorization":"Bearer "+edge.tokens.sign(key=new,header={"kid":"k2"})})
        print(i,x.status_code)
        if x.status_code==200: break
        await asyncio.sleep(.1)
    print((edge.access_log.parent/"envoy.log").read_text())
