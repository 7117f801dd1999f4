//! Windows: QoS policies, and routes past a VPN, both as PowerShell scripts.

use super::{ExportFormat, ExportWriter, Selection};

/// QoS policies, which mark the sent packets only.
pub(super) const QOS: ExportFormat = ExportFormat {
    name: "windows-qos",
    about: "Windows: QoS policies that mark the packets that this machine sends. Run it in PowerShell as administrator.",
    comment: Some("#"),
    write: qos,
};

/// Routes through the physical interface.
pub(super) const ROUTES: ExportFormat = ExportFormat {
    name: "windows-routes",
    about: "Windows: routes past the VPN, until the next restart. Run it in PowerShell as administrator.",
    comment: Some("#"),
    write: routes,
};

fn qos(selection: &Selection<'_>, out: &mut ExportWriter) {
    out.comment("Removes the policies of an earlier run.");
    out.line(
        "Get-NetQosPolicy | Where-Object Name -Like 'voicelane *' | Remove-NetQosPolicy -Confirm:$false",
    );
    for selector in selection.selectors_by_range() {
        let (ports, dscp) = (selector.ports[0], selector.treatment.dscp.value());
        out.comment(&selector.services.join(", "));
        for prefix in &selector.prefixes {
            let (protocol, name) = (
                selector.protocol,
                format!("{} {prefix} {ports}", selector.protocol),
            );
            out.line(format!(
                "New-NetQosPolicy -Name 'voicelane {name}' -NetworkProfile All -IPProtocolMatchCondition {} \
                 -IPDstPrefixMatchCondition '{prefix}' -IPDstPortStartMatchCondition {} -IPDstPortEndMatchCondition {} \
                 -DSCPAction {dscp}",
                protocol.to_string().to_uppercase(),
                ports.first(),
                ports.last(),
            ));
        }
    }
}

fn routes(selection: &Selection<'_>, out: &mut ExportWriter) {
    selection.note_addresses_only(out);
    out.note("A VPN client that monitors the routing table may remove these routes.");
    out.line("$prefixes = @(");
    for prefix in selection.prefixes() {
        out.line(format!("    '{prefix}'"));
    }
    out.line(")");
    out.line(ADD_ROUTES);
}

/// Adds a route for each prefix, with the gateway of the physical interface's default route.
const ADD_ROUTES: &str = "\
foreach ($prefix in $prefixes) {
    $any = if ($prefix.Contains(':')) { '::/0' } else { '0.0.0.0/0' }
    $uplink = Get-NetRoute -DestinationPrefix $any -ErrorAction SilentlyContinue |
        Where-Object { (Get-NetAdapter -InterfaceIndex $_.InterfaceIndex -ErrorAction SilentlyContinue).HardwareInterface } |
        Sort-Object { $_.RouteMetric + $_.InterfaceMetric } |
        Select-Object -First 1
    if (-not $uplink) {
        Write-Warning \"No physical interface has a default route for ${prefix}. It stays in the VPN.\"
        continue
    }
    Remove-NetRoute -DestinationPrefix $prefix -PolicyStore ActiveStore -Confirm:$false -ErrorAction SilentlyContinue
    New-NetRoute -DestinationPrefix $prefix -InterfaceIndex $uplink.InterfaceIndex -NextHop $uplink.NextHop `
        -PolicyStore ActiveStore | Out-Null
}";
