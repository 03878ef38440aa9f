// make usage TENANT=… [FROM=2026-01-01] [TO=2026-01-31] [BY=day,model,key]
//
// What a tenant has used: by day and for the last 30 days, unless said otherwise. Days are UTC.
import { openAdmin } from "./lib/admin.mjs";
import { optional, required, tenantId } from "./lib/arguments.mjs";
import { command } from "./lib/command.mjs";

await command(async () => {
  const tenant = tenantId(required("TENANT", "make usage TENANT=acme BY=model"));
  const query = new URLSearchParams();
  for (const [name, value] of [["from", optional("FROM")], ["to", optional("TO")], ["group_by", optional("BY")]]) {
    if (value !== null) query.set(name, value);
  }
  const { body } = await openAdmin().call("GET", `tenants/${tenant}/usage?${query}`);
  if (body.data.length === 0) console.log(`Tenant "${tenant}" has used nothing in this time.`);
  else console.log(table(body.data));
});

/// Rows of one shape as text: names to the left, numbers to the right.
function table(rows) {
  const columns = Object.keys(rows[0]);
  const lines = [columns, ...rows.map((row) => columns.map((column) => String(row[column])))];
  const widths = columns.map((_, at) => Math.max(...lines.map((line) => line[at].length)));
  const isNumber = columns.map((column) => typeof rows[0][column] === "number");
  const cell = (text, at) => (isNumber[at] ? text.padStart(widths[at]) : text.padEnd(widths[at]));
  return lines.map((line) => line.map(cell).join("  ").trimEnd()).join("\n");
}
