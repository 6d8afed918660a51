// Captures one document by the npm client epcis2.js: node epcis2_client.cjs URL KEY. Prints status and Location.
const { EPCISDocument, ObjectEvent, capture, setup, cbv } = require('epcis2.js');

const [, , url, key] = process.argv;
setup({ apiUrl: url, headers: { 'content-type': 'application/json', authorization: `Bearer ${key}` } });

const event = new ObjectEvent();
event
  .setEventTime('2026-10-04T20:33:31.116Z')
  .setEventTimeZoneOffset('+00:00')
  .addEPC('https://id.gs1.org/01/09521141012345/21/2018')
  .setAction(cbv.actionTypes.observe)
  .setBizStep(cbv.bizSteps.receiving)
  .setDisposition(cbv.dispositions.in_progress)
  .setReadPoint('https://id.gs1.org/414/4012345000054');
const document = new EPCISDocument();
document.addEvent(event).setCreationDate('2026-10-11T11:30:47.0Z');

capture(document).then((answer) => {
  console.log(JSON.stringify({ status: answer.status, location: answer.headers.get('location') }));
});
