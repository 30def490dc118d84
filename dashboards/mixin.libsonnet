// The dashboards and rules as a mixin. The files it names are the rendered ones: nothing is written twice.
{
  grafanaDashboards+:: {
    'netprobe-fleet.json': import 'grafana/netprobe-fleet.json',
    'netprobe-host.json': import 'grafana/netprobe-host.json',
    'netprobe-incident.json': import 'grafana/netprobe-incident.json',
    'netprobe-peers.json': import 'grafana/netprobe-peers.json',
    'netprobe-probe.json': import 'grafana/netprobe-probe.json',
    'netprobe-service.json': import 'grafana/netprobe-service.json',
    'netprobe-tcp.json': import 'grafana/netprobe-tcp.json',
    'netprobe-trends.json': import 'grafana/netprobe-trends.json',
  },
  prometheusRules+:: std.parseYaml(importstr 'prometheus/recording.yaml'),
  prometheusAlerts+:: std.parseYaml(importstr 'prometheus/alerts.yaml'),
}
