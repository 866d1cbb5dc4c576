/**
 * The dashboard's type: Grafana's own, with what it leaves to its panels and data sources filled in for those
 * that are used here. Enums are their values, as they are in JSON.
 */
import type { AnnotationQuery, Dashboard, DataQuery, FieldConfigSource, Panel, RowPanel, VariableModel } from "@grafana/schema";
import type { FieldConfig as TimeSeriesFields, Options as TimeSeriesOptions } from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";
import type { Options as StatOptions } from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type { Options as TableOptions } from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";

type Plain<T> = T extends string
  ? `${T}`
  : T extends number
    ? `${T}` extends `${infer N extends number}` ? N : T
    : T extends object
      ? { [K in keyof T]: Plain<T[K]> }
      : T;

/** Grafana does not publish the types of its Prometheus data source. */
interface PrometheusQuery extends Omit<DataQuery, "datasource"> {
  datasource: { type: "prometheus"; uid: string };
  expr: string;
  legendFormat: string;
  instant?: boolean;
  range?: boolean;
  format?: "time_series" | "table" | "heatmap";
}

interface Drawn<Kind extends string, Options, Custom = never> extends Omit<Panel, "type" | "options" | "fieldConfig" | "targets"> {
  type: Kind;
  title: string;
  description: string;
  options: Options;
  fieldConfig: Omit<FieldConfigSource, "defaults"> & {
    defaults: Omit<FieldConfigSource["defaults"], "custom"> & { custom?: Custom };
  };
  targets: PrometheusQuery[];
}

type AnyPanel =
  | RowPanel
  | Drawn<"timeseries", Omit<TimeSeriesOptions, "tooltip"> & { tooltip: Partial<TimeSeriesOptions["tooltip"]> }, Partial<TimeSeriesFields>>
  | Drawn<"stat", StatOptions>
  | Drawn<"table", Partial<TableOptions>>;

interface PrometheusAnnotation extends Omit<AnnotationQuery, "target"> {
  target: { refId: string; expr: string };
  titleFormat: string;
  textFormat: string;
}

export type Exo = Plain<
  Omit<Dashboard, "panels" | "annotations" | "templating"> & {
    panels: AnyPanel[];
    annotations: { list: PrometheusAnnotation[] };
    templating: { list: VariableModel[] };
  }
>;
