  // The token: in the address's fragment, which no server sees and which goes at once, or typed; kept in this tab alone. Of the
  // pages of boards and lectures alike: ops/gateway.py puts it into both.

  let token = "";

  function keep(given) {
    token = given;
    try {
      if (given) sessionStorage.setItem("token", given);
      else sessionStorage.removeItem("token");
    } catch {
      // No storage: until the page goes, then.
    }
  }

  function kept() {
    try {
      return sessionStorage.getItem("token") ?? "";
    } catch {
      return ""; // as above
    }
  }

  function fromAddress() {
    const given = new URLSearchParams(location.hash.slice(1)).get("token");
    if (given) history.replaceState(null, "", location.pathname + location.search);
    return given;
  }

  // Take what is given while the page is there.
  function onToken(take) {
    addEventListener("hashchange", () => {
      const given = fromAddress();
      if (given) take(given);
    });
    $("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      take($("token").value.trim());
      $("token").value = "";
    });
  }
