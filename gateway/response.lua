-- Give REST replies the status and the shape that the service's contract promises.
--
-- A service sends `fb-http-status: 201` as initial metadata. Here, where the reply is JSON or a raw body, it becomes the
-- status; over gRPC and gRPC-web the status stays 200, and the client may read the metadata itself.
--
-- Envoy's transcoder knows no `response_body`: it prints the whole message, {"session":{...}}. Routes of such methods
-- carry the metadata `unwrap`, and their replies lose the outer object here.

function envoy_on_response(reply)
  local headers = reply:headers()
  local chosen, kind = headers:get("fb-http-status"), headers:get("content-type")
  if kind ~= "application/json" and (chosen == nil or kind == nil or kind:find("^application/grpc")) then
    return
  end

  headers:remove("fb-http-status")
  if headers:get(":status") ~= "200" then
    return
  end
  if chosen ~= nil and chosen:match("^[23]%d%d$") then
    headers:replace(":status", chosen)
  end

  -- Asking for the body ends the life of `headers`.
  if chosen == "304" then
    headers:remove("content-type")
    reply:body(true):setBytes("")
  elseif reply:metadata():get("unwrap") then
    local body = reply:body(true)
    local inner = body:getBytes(0, body:length()):match('^{"%w+":(.*)}$')
    if inner then
      body:setBytes(inner)
    end
  end
end
