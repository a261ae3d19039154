//! Enums whose variants are the values of a label.

/// Defines an enum and `LABELS`, the values of its label in the order of its variants: the position of a variant's series.
macro_rules! labelled {
    (
        $(#[$outer:meta])*
        $vis:vis enum $name:ident {
            $($(#[$inner:meta])* $variant:ident = $label:literal,)+
        }
    ) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $name {
            $($(#[$inner])* $variant,)+
        }

        impl $name {
            const LABELS: &[&[&str]] = &[$(&[$label],)+];
        }
    };
}

pub(super) use labelled;
