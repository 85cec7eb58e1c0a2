// A certified OpenID provider on a free port of this machine, for
// tests/system/test_oidc_end_to_end.py. It says its address in one line, and lets in
// everybody with any password; what they are in is below.

import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";

import { Provider } from "oidc-provider";

const server = process.env.TEST_SERVER;
const audience = process.env.TEST_AUDIENCE;

const groups = {
  ana: ["license admins", "team-crash"],
  ben: ["team-crash", "team-noise"],
  mia: ["finance"],
};

const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
const key = { ...privateKey.export({ format: "jwk" }), kid: "test", use: "sig", alg: "RS256" };

const listener = createServer();
listener.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${listener.address().port}`;
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: "licenses",
        client_secret: "the secret of the license server",
        redirect_uris: [`${server}/oidc/callback/`],
        post_logout_redirect_uris: [`${server}/signin/`],
      },
      {
        client_id: "nightly",
        client_secret: "the secret of the nightly build",
        redirect_uris: [],
        response_types: [],
        grant_types: ["client_credentials"],
      },
    ],
    jwks: { keys: [key] },
    cookies: { keys: ["a key of the test's"] },
    claims: { openid: ["sub"], profile: ["preferred_username"], groups: ["groups"] },
    findAccount: async (_, id) => ({
      accountId: id,
      claims: async () => ({ sub: id, preferred_username: id, groups: groups[id] ?? [] }),
    }),
    pkce: { required: () => true },
    features: {
      clientCredentials: { enabled: true },
      // For machines alone: a person's access token must still open /me.
      resourceIndicators: {
        enabled: true,
        defaultResource: (ctx) =>
          ctx.oidc.body?.grant_type === "client_credentials" ? (ctx.oidc.body.resource ?? audience) : undefined,
        getResourceServerInfo: (_, resource) => ({
          audience: resource,
          scope: "",
          accessTokenTTL: 300,
          accessTokenFormat: "jwt",
          jwt: { sign: { alg: "RS256" } },
        }),
      },
    },
  });
  listener.on("request", provider.callback());
  console.log(issuer);
});
