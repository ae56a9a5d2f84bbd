// A visitor's calls by Adobe's Node.js SDK to the daemon at the given host and port, its only argument. Prints what the
// SDK made of the answers, in JSON.
const TargetClient = require("@adobe/target-nodejs-sdk");

const client = TargetClient.create({
  client: "demo",
  organizationId: "TESTORG@AdobeOrg",
  serverDomain: process.argv[2],
  secure: false,
});

async function visit() {
  const anonymous = await client.getOffers({
    request: { execute: { pageLoad: {}, mboxes: [{ name: "home", profileParameters: { plan: "free" } }] } },
  });
  // From here on the SDK knows the visitor, and the host to call, from the answers.
  const targetCookie = anonymous.targetCookie.value;
  const loggedIn = await client.getOffers({
    targetCookie,
    request: {
      id: { thirdPartyId: process.argv[2] },
      prefetch: {
        pageLoad: { profileParameters: { plan: "paid" } },
        views: [{ profileParameters: { view: "1" } }],
        mboxes: [{ name: "later", profileParameters: { city: "Zürich & co" } }],
      },
    },
  });
  const notified = await client.sendNotifications({
    targetCookie,
    request: {
      notifications: [
        { id: "n1", type: "click", timestamp: 1, mbox: { name: "home" }, profileParameters: { clicked: "yes" } },
      ],
    },
  });
  const attributes = await client.getAttributes(["home"], { targetCookie });
  return { anonymous, loggedIn, notified, attributes: attributes.asObject() };
}

visit().then(
  made => console.log(JSON.stringify(made)),
  error => {
    console.error(error);
    process.exitCode = 1;
  }
);
